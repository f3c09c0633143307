"""NLL, accuracy and the differences between rows, with what chance there is in them.

Every interval is over groups of recordings that are taken as independent of one another, speakers where they are
known: what another draw of them from the same source would change, for the models as they were trained. It holds
nothing of what another seed would change; `seed_sd` and `Difference.by_seed` are the measures of that.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from whisper_gpt.jobs.reproduction.results import RowResult

_LEVEL = 0.95
_RESAMPLES = 9_999
# Values resampled at once: 8 MB an array, however many groups there are.
_BATCH_VALUES = 1_000_000

# A difference of rows with thousands of groups takes over a second, and the table, its contrasts and its JSON ask
# for the same ones.
_once = lru_cache(maxsize=1024)


class Interval(NamedTuple):
    """Ends of a 95 % interval, in nats per token."""

    low: float
    high: float


class Difference(NamedTuple):
    """NLL of a row minus that of its base, nats per token; no interval and no p of fewer than 2 groups.

    `by_seed`: of each seed, where both rows have the same ones (a seed is the same order of data in both); else ().
    """

    delta: float
    interval: Interval | None
    p: float | None
    by_seed: tuple[float, ...]


def nll(row: RowResult) -> float:
    """Nats per token: sum of nats over sum of tokens, mean over seeds."""
    return float(_mean_nats(row).sum() / row.tokens.sum())


def nll_by_seed(row: RowResult) -> list[float]:
    """Nats per token of each seed."""
    return [float(value) for value in row.nats.sum(axis=1) / row.tokens.sum()]


def seed_sd(row: RowResult) -> float | None:
    """Standard deviation of NLL over seeds (n − 1 in the denominator); None of one seed."""
    return float(np.std(nll_by_seed(row), ddof=1)) if len(row.seeds) > 1 else None


def perplexity(row: RowResult) -> float:
    """exp(NLL); infinite where a diverged run's would overflow."""
    with np.errstate(over="ignore"):
        return float(np.exp(nll(row)))


def accuracy(row: RowResult) -> float:
    """Share of tokens that were the likeliest, from 0 to 1, mean over seeds."""
    return float(row.hits.mean(axis=0).sum() / row.tokens.sum())


@_once
def interval(row: RowResult) -> Interval | None:
    """95 % bootstrap interval of `nll(row)` over groups; None of fewer than 2.

    A resample draws N of the N groups with replacement and takes their sum of nats (the mean over seeds) over their sum
    of tokens. The percentiles are expanded for small N: plain ones are too narrow there, by the factor of a t interval
    with n in the variance's denominator (Hesterberg 2015, "What teachers should know about the bootstrap", 4.3). Not
    BCa, which is undefined where all groups score alike.
    """
    return ratio_interval(_mean_nats(row), row.tokens)


@_once
def difference(row: RowResult, base: RowResult) -> Difference:
    """NLL of `row` minus NLL of `base`, paired by group. Raises `ValueError` where they scored other tokens.

    The interval is `interval`'s, of the groups' differences in nats. The p value is of a two-sided sign-flip
    permutation test: were the rows alike, a group's difference would be as likely with the other sign
    (`scipy.stats.permutation_test`, 'samples': all 2^N signs where those are few, else 9,999 at random, so at least
    0.0002). Interval and test are two methods, and may disagree where the interval ends close to 0.
    """
    if row.groups != base.groups or not np.array_equal(row.tokens, base.tokens):
        raise ValueError(f"{row.row} and {base.row} were not scored on the same tokens of the same recordings")
    nats, by_seed = _mean_nats(row) - _mean_nats(base), ()
    if row.seeds == base.seeds:
        by_seed = tuple(np.subtract(nll_by_seed(row), nll_by_seed(base)).tolist())
    return Difference(nll(row) - nll(base), ratio_interval(nats, row.tokens), _sign_flip(nats), by_seed)


def _mean_nats(row: RowResult) -> np.ndarray:
    """Nats of each group, mean over seeds: float64 `[N]`."""
    return row.nats.mean(axis=0)


def ratio_interval(nats: np.ndarray, tokens: np.ndarray) -> Interval | None:
    """95 % bootstrap interval of sum(nats) / sum(tokens), both `[N]`, over groups; None of fewer than 2, NaN ends where
    nats are not finite. With other values and weights it is that of their ratio: a mean, with a weight of 1 each."""
    count = len(nats)
    if count < 2:
        return None
    if not np.isfinite(nats).all():
        return Interval(np.nan, np.nan)
    tail = stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf((1 - _LEVEL) / 2, count - 1))
    found = stats.bootstrap(
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
    return Interval(float(found.low), float(found.high))


def _sign_flip(nats: np.ndarray) -> float | None:
    """Two-sided p of a sum of differences `[N]`, were either sign as likely; NaN where they are not finite."""
    if len(nats) < 2:
        return None
    if not np.isfinite(nats).all():
        return np.nan  # NaN is never as great as the observed NaN, which would count as p = 0.0002.
    found = stats.permutation_test(
        (nats,),
        lambda nats, axis: nats.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_batch(nats),
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _batch(values: np.ndarray) -> int:
    return max(1, _BATCH_VALUES // len(values))
