"""NLL, accuracy and the differences between rows, with what chance there is in them.

Every interval is over recordings: what another draw of recordings from the same source would change, for the models
as they were trained. It holds nothing of what another seed would change; `seed_sd` is the measure of that. Recordings
are taken as independent of one another.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from jobs.reproduction.results import RowResult

_LEVEL = 0.95
_RESAMPLES = 9_999
# Values resampled at once: 8 MB an array, however many recordings there are.
_BATCH_VALUES = 1_000_000

# A difference of rows with thousands of recordings takes over a second, and the table, its contrasts and its JSON ask
# for the same ones.
_once = lru_cache(maxsize=1024)


class Interval(NamedTuple):
    """Ends of a 95 % interval, in nats per token."""

    low: float
    high: float


class Difference(NamedTuple):
    """NLL of a row minus that of its base, nats per token; no interval and no p of fewer than 2 recordings."""

    delta: float
    interval: Interval | None
    p: float | None


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
    """95 % percentile bootstrap interval of `nll(row)` over recordings; None of fewer than 2.

    A resample draws N of the N recordings with replacement and takes their sum of nats (the mean over seeds) over
    their sum of tokens. Percentile and not BCa: on made recordings of skewed lengths BCa covered no better, and it is
    undefined where all recordings score alike. Either is too narrow for few recordings: there the percentile interval
    covered 80 % of the time with 5 recordings, 89 % with 10 to 20, 92 % with 50, 95 % with 150.
    """
    return _bootstrap(_mean_nats(row), row.tokens)


@_once
def difference(row: RowResult, base: RowResult) -> Difference:
    """NLL of `row` minus NLL of `base`, paired by recording. Raises `ValueError` where they scored other tokens.

    The interval is `interval`'s, of the recordings' differences in nats. The p value is of a two-sided sign-flip
    permutation test: were the rows alike, a recording's difference would be as likely with the other sign
    (`scipy.stats.permutation_test`, 'samples': all 2^N signs where those are few, else 9,999 at random, so at least
    0.0002). Interval and test are two methods, and may disagree where the interval ends close to 0.
    """
    if row.recordings != base.recordings or not np.array_equal(row.tokens, base.tokens):
        raise ValueError(f"{row.row} and {base.row} were not scored on the same tokens of the same recordings")
    nats = _mean_nats(row) - _mean_nats(base)
    return Difference(nll(row) - nll(base), _bootstrap(nats, row.tokens), _sign_flip(nats))


def _mean_nats(row: RowResult) -> np.ndarray:
    """Nats of each recording, mean over seeds: float64 `[N]`."""
    return row.nats.mean(axis=0)


def _bootstrap(nats: np.ndarray, tokens: np.ndarray) -> Interval | None:
    """Interval of sum(nats) / sum(tokens), both `[N]`, over recordings; its ends are NaN where nats are not finite."""
    if len(nats) < 2:
        return None
    if not np.isfinite(nats).all():
        return Interval(np.nan, np.nan)
    found = stats.bootstrap(
        (nats, tokens.astype(np.float64)),
        lambda nats, tokens, axis: nats.sum(axis=axis) / tokens.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_batch(nats),
        confidence_level=_LEVEL,
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
