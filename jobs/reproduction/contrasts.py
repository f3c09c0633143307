"""The questions that the table is made to answer, each a difference of two rows, put into a sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.reproduction.results import RowResult
from jobs.reproduction.rows import BASELINE
from jobs.reproduction.statistics import Difference, Interval, difference, seed_sd
from pipeline.mel_config import decoded_codebooks


@dataclass(frozen=True)
class Contrast:
    """`row` against `base`, by name; `aside` says what the pair measures where its names do not."""

    row: str
    base: str
    aside: str
    difference: Difference
    seed_sds: tuple[float | None, float | None]  # of `row` and of `base`


def contrasts(rows: Sequence[RowResult]) -> list[Contrast]:
    """The contrasts between the `rows` of one domain; those that lack a row are left out."""
    named = {row.row: row for row in rows}
    found = []
    for name, base_name, aside in _pairs(named):
        if name in named and base_name in named:
            row, base = named[name], named[base_name]
            found.append(Contrast(name, base_name, aside, difference(row, base), (seed_sd(row), seed_sd(base))))
    return found


def sentence(contrast: Contrast) -> str:
    """The contrast in one plain sentence, with Δ, interval, p, and the spread of seeds where there is one."""
    aside = f" ({contrast.aside})" if contrast.aside else ""
    spreads = [f"{sd:.4f}" for sd in contrast.seed_sds if sd is not None]
    seeds = f"; seed SD {' and '.join(spreads)}" if len(spreads) == 2 else ""
    return (
        f"{contrast.row} against {contrast.base}{aside}: {verdict(contrast.difference)} "
        f"(Δ {difference_text(contrast.difference)}{seeds})."
    )


def verdict(found: Difference) -> str:
    """What a difference shows: which way, where its interval does not hold 0."""
    if found.interval is None:
        return "too few recordings to say"
    if not all(map(math.isfinite, (found.delta, *found.interval))):
        return "not a number, a run diverged"
    if found.interval.low <= 0 <= found.interval.high:
        return "no difference that this test set can show"
    return "lower" if found.delta < 0 else "higher"


def difference_text(found: Difference) -> str:
    """For example `−0.0123 [−0.0150, −0.0096], p < 0.001`."""
    if found.interval is None or found.p is None:
        return _signed(found.delta)
    p = "p < 0.001" if found.p < 0.001 else f"p = {found.p:.3f}"
    return f"{_signed(found.delta)} {_signed_interval(found.interval)}, {p}"


def _pairs(named: dict[str, RowResult]) -> list[tuple[str, str, str]]:
    """(row, base, aside) of every contrast, in the order of the report, whether the rows are there or not."""
    decoded = [decoded_codebooks(name.removeprefix("hybrid-4m-")) for name in named]
    most_codes = f"hybrid-4m-codes-{max(decoded, default=0)}"
    return [
        ("hybrid-4m", "gpt-40m", ""),
        ("hybrid-4m", BASELINE, ""),
        (most_codes, "gpt-4m-all-codes", "mel of the decoded codes, or the codes themselves"),
        (most_codes, BASELINE, ""),
        ("hybrid-4m-centred", "hybrid-4m", "the price of a leak"),
        ("mel-alone", BASELINE, ""),
    ]


def _signed_interval(found: Interval) -> str:
    return f"[{_signed(found.low)}, {_signed(found.high)}]"


def _signed(value: float) -> str:
    """Four decimals with a sign, a true minus, and no sign where they are all 0."""
    text = f"{value:+.4f}".replace("-", "−")
    return text[1:] if text[1:] == "0.0000" else text
