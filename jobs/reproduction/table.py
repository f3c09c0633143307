"""The table of a reproduction as Markdown and JSON: one table per dataset, its contrasts, and the legend."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from whisper_gpt.jobs.common.bootstrap import Interval
from whisper_gpt.jobs.reproduction.contrasts import Contrast, contrasts, difference_text, sentence, verdict
from whisper_gpt.jobs.reproduction.measures import NLL, Measure
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.statistics import (
    Difference,
    accuracy,
    difference,
    interval,
    nll,
    nll_by_seed,
    perplexity,
    seed_sd,
)


class PaperFigures(NamedTuple):
    """The paper's figures of one row on one dataset: nats per token, accuracy from 0 to 1, perplexity."""

    nll: float
    accuracy: float
    ppl: float


# arXiv 2412.11449, its table: GPT-S, GPT-L and Hybrid on LibriSpeech, then on music. By a word in the domain's name.
_PAPER = {
    "speech": {
        "gpt-4m": PaperFigures(2.02, 0.3418, 7.54),
        "gpt-40m": PaperFigures(1.94, 0.3482, 6.96),
        "hybrid-4m": PaperFigures(1.93, 0.3505, 6.96),
    },
    "music": {
        "gpt-4m": PaperFigures(2.78, 0.3496, 16.12),
        "gpt-40m": PaperFigures(2.77, 0.3572, 15.96),
        "hybrid-4m": PaperFigures(2.52, 0.3847, 12.43),
    },
}

_LEFT_ALIGNED = 2


def table_markdown(domains: Mapping[str, Sequence[RowResult]], note: Sequence[str], measure: Measure = NLL) -> str:
    """Return the report: the lines of `note`, a table and contrasts for each domain, and the legend.

    Raises `ValueError` if rows of a domain were not scored on the same tokens.
    """
    parts = [f"# {measure.heading}", bullets(note)]
    for domain, rows in domains.items():
        parts += [f"## {domain}", _scored(rows), _table(domain, rows, measure)]
        parts += [f"![{domain}: {what}]({name})" for what, name in figure_names(domain).items()]
        domain_contrasts = contrasts(rows)
        if domain_contrasts:
            sentences = [sentence(contrast, measure) for contrast in domain_contrasts]
            parts += [f"Contrasts of {measure.name}:", bullets(sentences)]
    parts += ["## What the figures are", bullets(measure.legend)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table_json(domains: Mapping[str, Sequence[RowResult]], note: Sequence[str], measure: Measure = NLL) -> dict:
    """Return the content of `table_markdown` in full precision; numbers that are not finite are None, as in JSON.

    Raises `ValueError` if rows of a domain were not scored on the same tokens.
    """
    return {
        "note": list(note),
        "legend": list(measure.legend),
        "per_nat": measure.per_nat,  # every NLL below times this is in the measure
        "measure": measure.name,
        "domains": {
            domain: {
                "recordings": rows[0].recordings if rows else 0,
                "groups": len(rows[0].groups) if rows else 0,
                "tokens": int(rows[0].tokens.sum()) if rows else 0,
                "rows": [_row_json(domain, row, base, measure) for row, base in _with_baseline(rows, measure)],
                "contrasts": [_contrast_json(contrast) for contrast in contrasts(rows)],
            }
            for domain, rows in domains.items()
        },
    }


def figure_names(domain: str) -> dict[str, str]:
    """Return the names of the plots, by what they show."""
    return {"how rows learn": f"{domain}-learning.png", "nats by position": f"{domain}-positions.png"}


def paper_figures(domain: str, row: str) -> PaperFigures | None:
    """Return the paper's figures for a row, if `domain` contains speech or music and the paper has the row."""
    for word, figures in _PAPER.items():
        if word in domain.lower():
            return figures.get(row)
    return None


def _with_baseline(rows: Sequence[RowResult], measure: Measure) -> list[tuple[RowResult, RowResult | None]]:
    """Return each row with the baseline of its Δ; None if that is the row itself, or missing."""
    baseline = next((row for row in rows if row.row == measure.baseline), None)
    return [(row, None if row is baseline else baseline) for row in rows]


def _scored(rows: Sequence[RowResult]) -> str:
    if not rows:
        return "No rows."
    recordings, groups, tokens = rows[0].recordings, len(rows[0].groups), rows[0].tokens.sum()
    speakers = f" of {groups:,} speakers" if groups < recordings else ""
    return f"{recordings:,} recordings{speakers}, {tokens:,} tokens of codebook 0 scored."


def _table(domain: str, rows: Sequence[RowResult], measure: Measure) -> str:
    cells = [_cells(domain, row, base, measure) for row, base in _with_baseline(rows, measure)]
    if not cells:
        return ""
    rules = [":--" if i < _LEFT_ALIGNED else "--:" for i in range(len(cells[0]))]
    return markdown_rows([list(cells[0]), rules, *(list(row.values()) for row in cells)])


def _cells(domain: str, row: RowResult, base: RowResult | None, measure: Measure) -> dict[str, str]:
    """Return the cells of a row, by their headings."""
    spread, paper = seed_sd(row), paper_figures(domain, row.row)
    particular = {"NLL by codebook, nats": " ".join(f"{nll:.2f}" for nll in row.codebook_nll)}
    if measure is NLL:
        particular = {"PPL": f"{perplexity(row):.2f}"}
    figures = f"{paper.nll:.2f} / {paper.accuracy:.2%} / {paper.ppl:.2f}" if paper else "–"
    return {
        "row (tag)": f"{row.row} ({row.tag})",
        "reads" if measure is NLL else "model": row.description.replace("|", "\\|"),
        "parameters": _si(row.parameters),
        "FLOPs/frame": _si(row.flops_per_token) if row.flops_per_token else "–",
        f"{measure.name} [95 %]": _with_interval(nll(row), interval(row), measure),
        **particular,
        "accuracy": f"{accuracy(row):.2%}",
        f"Δ {measure.name} to {measure.baseline} [95 %], p": (
            difference_text(difference(row, base), measure) if base else "–"
        ),
        "seed SD": measure.signed(spread).removeprefix("+") if spread is not None else "–",
        "frames trained": _si(row.tokens_trained),
        "learning rate": f"{row.learning_rate:g}" if row.learning_rate is not None else "–",
        "wall time": _duration(row.wall_s) if not row.is_ngram else "–",
        **({"paper NLL / accuracy / PPL": figures} if measure is NLL else {}),
    }


def _row_json(domain: str, row: RowResult, base: RowResult | None, measure: Measure) -> dict:
    paper = paper_figures(domain, row.row)
    return {
        "row": row.row,
        "tag": row.tag,
        "description": row.description,
        "parameters": int(row.parameters),
        "flops_per_token": finite(row.flops_per_token),
        "learning_rate": finite(row.learning_rate),
        "tokens_trained": int(row.tokens_trained),
        "wall_s": finite(row.wall_s),
        "seeds": [int(seed) for seed in row.seeds],
        "nll": finite(nll(row)),
        "codebook_nll": [finite(value) for value in row.codebook_nll],
        "nll_interval": finite_ends(interval(row)),
        "nll_by_seed": [finite(value) for value in nll_by_seed(row)],
        "seed_sd": finite(seed_sd(row)),
        "ppl": finite(perplexity(row)) if measure is NLL else None,  # of several codebooks it would mean nothing
        "accuracy": finite(accuracy(row)),
        "against_baseline": _difference_json(difference(row, base)) if base else None,
        "paper": paper._asdict() if paper else None,
    }


def _contrast_json(contrast: Contrast) -> dict:
    return {
        "row": contrast.row,
        "base": contrast.base,
        "aside": contrast.note,
        "verdict": verdict(contrast.difference),
        **_difference_json(contrast.difference),
    }


def _difference_json(difference: Difference) -> dict:
    return {
        "delta": finite(difference.delta),
        "interval": finite_ends(difference.interval),
        "p": finite(difference.p),
        "by_seed": [finite(delta) for delta in difference.by_seed],
    }


def finite_ends(interval: Interval | None) -> list[float | None] | None:
    """Return the ends of an interval for JSON."""
    return [finite(end) for end in interval] if interval else None


def finite(value: float | None) -> float | None:
    """Return a number for JSON: None if it is not finite."""
    return float(value) if value is not None and math.isfinite(value) else None


def markdown_rows(rows: Sequence[Sequence[str]]) -> str:
    """Return the rows of a table in Markdown, of which the second are its rules."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def bullets(lines: Sequence[str]) -> str:
    """Return lines as a list in Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def _with_interval(value: float, interval: Interval | None, measure: Measure) -> str:
    if interval is None:
        return measure.value(value)
    return f"{measure.value(value)} [{measure.value(interval.low)}, {measure.value(interval.high)}]"


def _si(value: float) -> str:
    """Format with three significant digits and an SI prefix: 3.67 M, 205 M, 1.02 k."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999,600 is 1.00 M, not 1000 k.
        if value >= 0.9995 * size:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f} {prefix}"
    return f"{value:.0f}"


def _duration(seconds: float) -> str:
    """Format in seconds up to 2 minutes, in minutes up to 2 hours, then in hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
