"""NLL, accuracy and paired differences, with bootstrap intervals and permutation tests.

Intervals are over groups of recordings that are assumed independent: speakers, if known. They describe the variation
over other samples of speakers from the same source, for the models as trained. They do not include the variation over
seeds; `seed_sd` and `Difference.by_seed` measure that.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from whisper_gpt.jobs.reproduction.results import RowResult

_LEVEL = 0.95
_RESAMPLES = 9_999
# Values resampled at once: 8 MB per array, whatever the number of groups.
_BATCH_VALUES = 1_000_000

# A difference of rows with thousands of groups takes over a second; the table, its contrasts and its JSON need the
# same ones.
_once = lru_cache(maxsize=1024)


class Interval(NamedTuple):
    """Ends of a 95 % interval, in nats per token."""

    low: float
    high: float


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

    A resample draws N of the N groups with replacement and takes their sum of nats (the mean over seeds) over their sum
    of tokens. The percentiles are expanded for small N: plain ones are too narrow there, by the factor of a t interval
    with n in the variance's denominator (Hesterberg 2015, "What teachers should know about the bootstrap", 4.3). Not
    BCa, which is undefined if all groups have the same score.
    """
    return ratio_interval(_mean_nats(row), row.tokens)


@_once
def difference(row: RowResult, base: RowResult) -> Difference:
    """Return NLL of `row` minus NLL of `base`, paired by group. Raises `ValueError` if their tokens differ.

    The interval is computed as in `interval`, from the groups' differences in nats. The p value is that of a two-sided
    sign-flip permutation test: if the rows were equally good, a group's difference would be as likely with the other
    sign (`scipy.stats.permutation_test`, 'samples': all 2^N signs if those are few, else 9,999 at random, so p is at
    least 0.0002). Interval and test are two methods, and may disagree if the interval ends close to 0.
    """
    if row.groups != base.groups or not np.array_equal(row.tokens, base.tokens):
        raise ValueError(f"{row.row} and {base.row} were not scored on the same tokens of the same recordings")
    nats, by_seed = _mean_nats(row) - _mean_nats(base), ()
    if row.seeds == base.seeds:
        by_seed = tuple(np.subtract(nll_by_seed(row), nll_by_seed(base)).tolist())
    return Difference(nll(row) - nll(base), ratio_interval(nats, row.tokens), _sign_flip(nats), by_seed)


@_once
def change_of_difference(row: RowResult, base: RowResult, other_row: RowResult, other_base: RowResult) -> Difference:
    """Return the difference of `row` and `base` minus that of `other_row` and `other_base`, paired by group.

    Each pair must have the same tokens; the two pairs the same groups, and about the same number of tokens in each.
    Raises `ValueError` otherwise. Interval and test are computed as in `difference`.
    """
    here, there = difference(row, base), difference(other_row, other_base)
    same = row.groups == other_row.groups and np.allclose(row.tokens, other_row.tokens, rtol=0.02)
    if not same:
        raise ValueError(f"{row.row} and {other_row.row} were not scored on the same recordings")
    here_nats, there_nats = _mean_nats(row) - _mean_nats(base), _mean_nats(other_row) - _mean_nats(other_base)
    nats = here_nats - there_nats * (row.tokens.sum() / other_row.tokens.sum())
    by_seed = tuple(np.subtract(here.by_seed, there.by_seed).tolist()) if here.by_seed and there.by_seed else ()
    return Difference(here.delta - there.delta, ratio_interval(nats, row.tokens), _sign_flip(nats), by_seed)


def _mean_nats(row: RowResult) -> np.ndarray:
    """Return the nats of each group, mean over seeds: float64 `[N]`."""
    return row.nats.mean(axis=0)


def ratio_interval(nats: np.ndarray, tokens: np.ndarray) -> Interval | None:
    """Return the 95 % bootstrap interval of sum(nats) / sum(tokens), both `[N]`, over groups: None for fewer than 2,
    NaN if nats are not finite. Works for other values and weights too: with weights of 1 it is that of a mean."""
    count = len(nats)
    if count < 2:
        return None
    if not np.isfinite(nats).all():
        return Interval(np.nan, np.nan)
    tail = stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf((1 - _LEVEL) / 2, count - 1))
    interval = stats.bootstrap(
        (nats, tokens.astype(np.float64)),
        lambda nats, tokens, axis: nats.sum(axis=axis) / tokens.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_batch(nats),
        confidence_level=float(1 - 2 * tail),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def _sign_flip(nats: np.ndarray) -> float | None:
    """Return the two-sided p of a sum of differences `[N]` under random signs; NaN if they are not finite."""
    if len(nats) < 2:
        return None
    if not np.isfinite(nats).all():
        return np.nan  # no resampled NaN is >= the observed NaN, which would give p = 0.0002
    test = stats.permutation_test(
        (nats,),
        lambda nats, axis: nats.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_batch(nats),
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def _batch(values: np.ndarray) -> int:
    return max(1, _BATCH_VALUES // len(values))
