"""The questions that the table is made to answer, each a difference of two rows, put into a sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.rows import BASELINE
from whisper_gpt.jobs.reproduction.statistics import Difference, Interval, difference
from whisper_gpt.pipeline.features.mel_config import decoded_codebooks

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Contrast:
    """`row` against `base`, by name; `aside` says what the pair measures where its names do not."""

    row: str
    base: str
    aside: str
    difference: Difference


def contrasts(rows: Sequence[RowResult]) -> list[Contrast]:
    """The contrasts between the `rows` of one domain; those that lack a row are left out."""
    named = {row.row: row for row in rows}
    return [
        Contrast(name, base, aside, difference(named[name], named[base]))
        for (name, base), aside in _pairs(named).items()
        if name in named and base in named
    ]


def sentence(contrast: Contrast) -> str:
    """The contrast in one plain sentence, with Δ, interval, p, and Δ by seed."""
    aside = f" ({contrast.aside})" if contrast.aside else ""
    by_seed = contrast.difference.by_seed
    seeds = f"; by seed {', '.join(map(_signed, by_seed))}" if len(by_seed) > 1 else "; one seed" if by_seed else ""
    return (
        f"{contrast.row} against {contrast.base}{aside}: {verdict(contrast.difference)} "
        f"(Δ {difference_text(contrast.difference)}{seeds})."
    )


def verdict(found: Difference) -> str:
    """What a difference shows: which way, where interval and test both say that it is none of chance."""
    if found.interval is None or found.p is None:
        return "too few recordings to say"
    if not all(map(math.isfinite, (found.delta, *found.interval))):
        return "not a number, a run diverged"
    if found.interval.low <= 0 <= found.interval.high or found.p >= _SIGNIFICANT:
        return "no difference that this test set can show"
    return "lower" if found.delta < 0 else "higher"


def difference_text(found: Difference) -> str:
    """For example `−0.0123 [−0.0150, −0.0096], p < 0.001`."""
    if found.interval is None or found.p is None:
        return _signed(found.delta)
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    return f"{_signed(found.delta)} {_signed_interval(found.interval)}, {p}"


def _pairs(named: dict[str, RowResult]) -> dict[tuple[str, str], str]:
    """(row, base) of every contrast, in the order of the report, whether the rows are there or not, and its aside."""
    decoded = [decoded_codebooks(name.removeprefix("hybrid-4m-")) for name in named]
    most_codes = f"hybrid-4m-codes-{max(decoded, default=0)}"
    return {
        ("hybrid-4m", "gpt-40m"): "",
        ("hybrid-4m", BASELINE): "",
        (most_codes, "gpt-4m-all-codes"): "mel of the decoded codes, or the codes themselves",
        (most_codes, BASELINE): "",
        ("hybrid-4m-codes-1", "gpt-40m"): "both know codebook 0 alone",
        ("hybrid-4m-codes-1", BASELINE): "both know codebook 0 alone",
        ("hybrid-4m", most_codes): "what real mel holds beyond the codes",
        ("hybrid-4m", "mel-alone"): "what the tokens add",
        ("hybrid-4m-centred", "hybrid-4m"): "the price of a leak",
    }


def _signed_interval(found: Interval) -> str:
    return f"[{_signed(found.low)}, {_signed(found.high)}]"


def _signed(value: float) -> str:
    """Four decimals with a sign, a true minus, and no sign where they are all 0."""
    text = f"{value:+.4f}".replace("-", "−")
    return text[1:] if text[1:] == "0.0000" else text
