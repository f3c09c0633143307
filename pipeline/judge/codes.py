"""Statistics of codes that show a collapse: a drone repeats few of them."""

from collections.abc import Sequence

import numpy as np

from whisper_gpt.pipeline.judge.distributions import jensen_shannon


def entropy(codes: np.ndarray) -> float:
    """Return the entropy in nats of the distribution of `codes` `[n]`: 0 if all are the same."""
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(-(share * np.log(share)).sum())


def commonest_share(codes: np.ndarray) -> float:
    """Return the share of the commonest code in `codes` `[n]`."""
    return float(np.unique(codes, return_counts=True)[1].max() / len(codes))


def repeated_share(codes: np.ndarray, length: int = 4) -> float:
    """Return the share of runs of `length` codes in `codes` `[n]` that occurred before in them; NaN if n < length."""
    if len(codes) < length:
        return float("nan")
    runs = np.lib.stride_tricks.sliding_window_view(codes, length)
    return 1 - len(np.unique(runs, axis=0)) / len(runs)


def unigram_divergence(drawn: Sequence[np.ndarray], real: Sequence[np.ndarray], vocab: int) -> float:
    """Return the Jensen–Shannon divergence in nats (at most ln 2) of the codes' distributions in two sets of clips."""
    p, q = (np.bincount(np.concatenate(clips), minlength=vocab) / sum(map(len, clips)) for clips in (drawn, real))
    return jensen_shannon(p, q)
