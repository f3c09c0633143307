"""Bootstrap intervals and sign-flip tests over independent groups."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

_LEVEL = 0.95
_RESAMPLES = 9_999
# Values resampled at once: 8 MB per array, whatever the number of groups.
_BATCH_VALUES = 1_000_000


class Interval(NamedTuple):
    """Ends of a 95 % interval."""

    low: float
    high: float


def ratio_interval(values: np.ndarray, weights: np.ndarray) -> Interval | None:
    """Return the 95 % bootstrap interval of sum(values) / sum(weights), both `[N]`, over groups.

    None for fewer than 2 groups, NaN if values are not finite. With weights of 1 it is that of a mean. A resample draws
    N of the N groups with replacement. The percentiles are expanded for small N: plain ones are too narrow there, by
    the factor of a t interval with n in the variance's denominator (Hesterberg 2015, "What teachers should know about
    the bootstrap", 4.3). Not BCa, which is undefined if all groups have the same value.
    """
    count = len(values)
    if count < 2:
        return None
    if not np.isfinite(values).all():
        return Interval(np.nan, np.nan)
    tail = stats.norm.cdf(np.sqrt(count / (count - 1)) * stats.t.ppf((1 - _LEVEL) / 2, count - 1))
    interval = stats.bootstrap(
        (values, weights.astype(np.float64)),
        lambda values, weights, axis: values.sum(axis=axis) / weights.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_batch(values),
        confidence_level=float(1 - 2 * tail),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(float(interval.low), float(interval.high))


def sign_flip(differences: np.ndarray) -> float | None:
    """Return the two-sided p of a sum of differences `[N]` under random signs; NaN if they are not finite.

    If there were no difference, each group's would be as likely with the other sign (`scipy.stats.permutation_test`,
    'samples': all 2^N signs if those are few, else 9,999 at random, so p is at least 0.0002).
    """
    if len(differences) < 2:
        return None
    if not np.isfinite(differences).all():
        return np.nan  # no resampled NaN is >= the observed NaN, which would give p = 0.0002
    test = stats.permutation_test(
        (differences,),
        lambda differences, axis: differences.sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        batch=_batch(differences),
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p values corrected for their number (Holm 1979, "A simple sequentially rejective multiple test
    procedure"); those that are None stay so and do not count."""
    known = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - rank)))
        corrected[i] = largest
    return corrected


def _batch(values: np.ndarray) -> int:
    return max(1, _BATCH_VALUES // len(values))
