"""The questions that the table answers: each is a difference of two rows, written as a sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from whisper_gpt.jobs.reproduction.measures import NLL, Measure
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.statistics import Difference, difference
from whisper_gpt.pipeline.features.mel_config import decoded_codebooks

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Contrast:
    """`row` against `base`, by name; `note` says what the pair measures if the names do not."""

    row: str
    base: str
    note: str
    difference: Difference


def contrasts(rows: Sequence[RowResult]) -> list[Contrast]:
    """Return the contrasts between the `rows` of one domain, except those with a missing row."""
    named = {row.row: row for row in rows}
    return [
        Contrast(name, base, note, difference(named[name], named[base]))
        for (name, base), note in _pairs(named).items()
        if name in named and base in named
    ]


def sentence(contrast: Contrast, measure: Measure = NLL) -> str:
    """Return the contrast as a sentence, with Δ, interval, p, and Δ by seed, in `measure`."""
    note = f" ({contrast.note})" if contrast.note else ""
    subject = f"{contrast.row} against {contrast.base}{note}"
    return outcome_sentence(subject, verdict(contrast.difference), contrast.difference, measure)


def outcome_sentence(subject: str, verdict: str, difference: Difference, measure: Measure) -> str:
    """Return what was compared, the verdict, and Δ with its interval, p, and Δ by seed, as a sentence."""
    by_seed = difference.by_seed
    seeds = (
        f"; by seed {', '.join(map(measure.signed, by_seed))}" if len(by_seed) > 1 else "; one seed" if by_seed else ""
    )
    return f"{subject}: {verdict} (Δ {difference_text(difference, measure)}{seeds})."


def verdict(difference: Difference) -> str:
    """Return the direction of a difference, if both interval and test are significant."""
    if difference.interval is None or difference.p is None:
        return "too few recordings to say"
    if not all(map(math.isfinite, (difference.delta, *difference.interval))):
        return "not a number, a run diverged"
    if difference.interval.low <= 0 <= difference.interval.high or difference.p >= _SIGNIFICANT:
        return "no difference that this test set can show"
    return "lower" if difference.delta < 0 else "higher"


def difference_text(difference: Difference, measure: Measure = NLL) -> str:
    """Format a difference in `measure`, for example as `−0.0123 [−0.0150, −0.0096], p < 0.001`."""
    if difference.interval is None or difference.p is None:
        return measure.signed(difference.delta)
    p = "p < 0.001" if difference.p < 0.001 else f"p = {difference.p:.3f}"
    low, high = map(measure.signed, difference.interval)
    return f"{measure.signed(difference.delta)} [{low}, {high}], {p}"


def _pairs(named: dict[str, RowResult]) -> dict[tuple[str, str], str]:
    """Map (row, base) of every contrast, in the order of the report and whether the rows exist or not, to its note."""
    decoded = [decoded_codebooks(name.removeprefix("hybrid-4m-")) for name in named]
    most_codes = f"hybrid-4m-codes-{max(decoded, default=0)}"
    return {
        ("hybrid-4m", "gpt-40m"): "",
        ("hybrid-4m", "gpt-4m"): "",
        (most_codes, "gpt-4m-all-codes"): "mel of the decoded codes, or the codes themselves",
        (most_codes, "gpt-4m"): "",
        ("hybrid-4m-codes-1", "gpt-40m"): "both know codebook 0 alone",
        ("hybrid-4m-codes-1", "gpt-4m"): "both know codebook 0 alone",
        ("hybrid-4m", most_codes): "what real mel holds beyond the codes",
        ("hybrid-4m", "mel-alone"): "what the tokens add",
        ("hybrid-4m-centred", "hybrid-4m"): "the price of a leak",
        ("hybrid-8m", "gpt-8m"): "what the mel of the same codes adds",
        ("hybrid-8m-one-code", "hybrid-8m"): "whether the finer codes add anything to the mel",
        ("gpt-8m", "delay-8m"): "the depth decoder, or the delay pattern",
        ("gpt-8m", "flat-8m"): "a longer context in seconds, or every code a position of its own",
    }
