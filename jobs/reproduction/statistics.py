"""NLL, accuracy and paired differences, with bootstrap intervals and permutation tests.

Intervals are over groups of recordings that are assumed independent: speakers, if known. They describe the variation
over other samples of speakers from the same source, for the models as trained. They do not include the variation over
seeds; `seed_sd` and `Difference.by_seed` measure that.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from whisper_gpt.jobs.common.bootstrap import Interval, ratio_interval, sign_flip
from whisper_gpt.jobs.reproduction.results import RowResult

# A difference of rows with thousands of groups takes over a second; the table, its contrasts and its JSON need the
# same ones.
_once = lru_cache(maxsize=1024)


class Difference(NamedTuple):
    """NLL of a row minus that of its base, in nats per token; interval and p are None for fewer than 2 groups.

    `by_seed`: the difference for each seed if both rows have the same seeds (with the same data order), else ().
    """

    delta: float
    interval: Interval | None
    p: float | None
    by_seed: tuple[float, ...]


def nll(row: RowResult) -> float:
    """Return nats per token: sum of nats over sum of tokens, mean over seeds."""
    return float(_mean_nats(row).sum() / row.tokens.sum())


def nll_by_seed(row: RowResult) -> list[float]:
    """Return the nats per token of each seed."""
    return [float(value) for value in row.nats.sum(axis=1) / row.tokens.sum()]


def seed_sd(row: RowResult) -> float | None:
    """Return the standard deviation of NLL over seeds (n − 1 in the denominator); None for one seed."""
    return float(np.std(nll_by_seed(row), ddof=1)) if len(row.seeds) > 1 else None


def perplexity(row: RowResult) -> float:
    """Return exp(NLL); infinity if it overflows, as for a diverged run."""
    with np.errstate(over="ignore"):
        return float(np.exp(nll(row)))


def accuracy(row: RowResult) -> float:
    """Return top-1 accuracy, from 0 to 1, mean over seeds."""
    return float(row.correct.mean(axis=0).sum() / row.tokens.sum())


@_once
def interval(row: RowResult) -> Interval | None:
    """Return the 95 % bootstrap interval of `nll(row)` over groups; None for fewer than 2.

    Over groups with their sums of nats (the mean over seeds) and of tokens; see `bootstrap`.
    """
    return ratio_interval(_mean_nats(row), row.tokens)


@_once
def difference(row: RowResult, base: RowResult) -> Difference:
    """Return NLL of `row` minus NLL of `base`, paired by group. Raises `ValueError` if their tokens differ.

    The interval is computed as in `interval`, from the groups' differences in nats; p is that of a sign-flip test.
    Interval and test are two methods, and may disagree if the interval ends close to 0.
    """
    if row.groups != base.groups or not np.array_equal(row.tokens, base.tokens):
        raise ValueError(f"{row.row} and {base.row} were not scored on the same tokens of the same recordings")
    nats, by_seed = _mean_nats(row) - _mean_nats(base), ()
    if row.seeds == base.seeds:
        by_seed = tuple(np.subtract(nll_by_seed(row), nll_by_seed(base)).tolist())
    return Difference(nll(row) - nll(base), ratio_interval(nats, row.tokens), sign_flip(nats), by_seed)


@_once
def change_of_difference(row: RowResult, base: RowResult, other_row: RowResult, other_base: RowResult) -> Difference:
    """Return the difference of `row` and `base` minus that of `other_row` and `other_base`, paired by group.

    Each pair must have the same tokens; the two pairs the same groups, and about the same number of tokens in each.
    Raises `ValueError` otherwise. Interval and test are computed as in `difference`.
    """
    here, there = difference(row, base), difference(other_row, other_base)
    same = row.groups == other_row.groups and np.allclose(row.tokens, other_row.tokens, rtol=0.02, atol=row.recordings)
    if not same:
        raise ValueError(f"{row.row} and {other_row.row} were not scored on the same recordings")
    here_nats, there_nats = _mean_nats(row) - _mean_nats(base), _mean_nats(other_row) - _mean_nats(other_base)
    nats = here_nats - there_nats * (row.tokens.sum() / other_row.tokens.sum())
    by_seed = tuple(np.subtract(here.by_seed, there.by_seed).tolist()) if here.by_seed and there.by_seed else ()
    return Difference(here.delta - there.delta, ratio_interval(nats, row.tokens), sign_flip(nats), by_seed)


def _mean_nats(row: RowResult) -> np.ndarray:
    """Return the nats of each group, mean over seeds: float64 `[N]`."""
    return row.nats.mean(axis=0)
