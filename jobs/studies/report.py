"""The report of a study: as Markdown, as JSON, and as a picture of its cells."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from whisper_gpt.jobs.reproduction.contrasts import outcome_sentence
from whisper_gpt.jobs.reproduction.measures import Measure
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.statistics import accuracy, interval, nll, seed_sd
from whisper_gpt.jobs.reproduction.table import bullets, finite, finite_ends, markdown_rows
from whisper_gpt.jobs.studies.design import Cell, Study
from whisper_gpt.jobs.studies.results import Compared
from whisper_gpt.manifests.figures import png_bytes

PICTURE = "study.png"
_LEGEND = (
    "The interval is a 95 % bootstrap interval over speakers (over recordings, if no speaker is known), for the models "
    "as trained; seed SD is the standard deviation over seeds.",
    "Δ is paired by speaker or recording; p is that of a two-sided sign-flip permutation test, corrected for the "
    "number of comparisons (Holm). A difference is called lower or higher only if its interval excludes 0, its p is "
    "below 0.05, and all seeds have the same sign; with one seed, nothing is known about others.",
)


def report_markdown(
    study: Study,
    cells: Mapping[Cell, RowResult],
    outcomes: Sequence[Compared],
    notes: Sequence[str],
    measure: Measure,
    section: str = "",
) -> str:
    """Return the report: question, notes, comparisons, the table of all cells, the picture, the study's own `section`,
    and the legend."""
    header = ["trained on", "row", "parameters", "tested on", f"{measure.name} [95 %]", "seed SD", "accuracy", "rate"]
    lines = [header, ["---"] * len(header), *(_line(cell, result, measure) for cell, result in cells.items())]
    parts = [
        f"# {study.question}",
        bullets(notes),
        "## Answers",
        bullets([outcome_sentence(o.comparison.text, o.verdict, o.difference, measure) for o in outcomes]),
        "## Scores",
        markdown_rows(lines),
        f"![Every score, with its interval]({PICTURE})",
        *([section] if section else []),
        "## What the figures are",
        bullets([*study.caveats, *measure.legend, *_LEGEND]),
    ]
    return "\n\n".join(parts) + "\n"


def report_json(
    study: Study, cells: Mapping[Cell, RowResult], outcomes: Sequence[Compared], notes: Sequence[str], measure: Measure
) -> dict[str, Any]:
    """Return the content of the report, in nats; `per_nat` times them is the measure."""
    return {
        "question": study.question,
        "notes": list(notes),
        "measure": measure.name,
        "per_nat": measure.per_nat,
        "scores": [
            {
                "training": cell.training,
                "row": cell.row,
                "test": cell.test,
                "parameters": result.parameters,
                "flops_per_token": result.flops_per_token,
                "learning_rate": result.learning_rate,
                "nll": finite(nll(result)),
                "interval": finite_ends(interval(result)),
                "seed_sd": finite(seed_sd(result)),
                "accuracy": accuracy(result),
                "groups": len(result.groups),
                "tokens": int(result.tokens.sum()),
            }
            for cell, result in cells.items()
        ],
        "comparisons": [
            {
                "text": outcome.comparison.text,
                "verdict": outcome.verdict,
                "delta": finite(outcome.difference.delta),
                "interval": finite_ends(outcome.difference.interval),
                "p": finite(outcome.difference.p),
                "by_seed": [finite(delta) for delta in outcome.difference.by_seed],
            }
            for outcome in outcomes
        ],
    }


def picture(cells: Mapping[Cell, RowResult], measure: Measure) -> bytes:
    """Return a PNG: the measure with its interval for every training and test set, one colour per row."""
    conditions = list(dict.fromkeys(_condition(cell) for cell in cells))
    rows = list(dict.fromkeys(cell.row for cell in cells))
    figure = Figure(figsize=(9, 1.2 + 0.28 * len(conditions) * max(1, len(rows) / 3)), layout="constrained")
    axes = figure.subplots()
    for i, row in enumerate(rows):
        own = {cell: result for cell, result in cells.items() if cell.row == row}
        y = [conditions.index(_condition(cell)) + 0.6 * ((i + 0.5) / len(rows) - 0.5) for cell in own]
        x = [measure.per_nat * nll(result) for result in own.values()]
        ends = [interval(result) or (nll(result), nll(result)) for result in own.values()]
        low = [value - measure.per_nat * end[0] for value, end in zip(x, ends, strict=True)]
        high = [measure.per_nat * end[1] - value for value, end in zip(x, ends, strict=True)]
        axes.errorbar(x, y, xerr=[low, high], fmt="o", ms=4, capsize=2, lw=1, label=row)
    axes.set_yticks(range(len(conditions)), conditions)
    axes.invert_yaxis()
    axes.set_xlabel(measure.axis)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=min(len(rows), 4))
    return png_bytes(figure)


def _condition(cell: Cell) -> str:
    return cell.test if cell.training == cell.test else f"{cell.training} → {cell.test}"


def _line(cell: Cell, result: RowResult, measure: Measure) -> list[str]:
    ends, spread = interval(result), seed_sd(result)
    between = f" [{measure.value(ends.low)}, {measure.value(ends.high)}]" if ends else ""
    return [
        cell.training,
        cell.row,
        f"{result.parameters / 1e6:.2f} M",
        cell.test,
        measure.value(nll(result)) + between,
        measure.signed(spread).removeprefix("+") if spread is not None else "–",
        f"{accuracy(result):.1%}",
        f"{result.learning_rate:g}",
    ]
