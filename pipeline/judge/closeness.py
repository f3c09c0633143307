"""Similarity of speech to its original, by the measures of telephony: PESQ (ITU-T P.862.2) and STOI."""

import warnings

import numpy as np

from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.judge.packages import JUDGE_RATE, at_judge_rate


def pesq(original: np.ndarray, other: np.ndarray) -> float:
    """Return the wide-band PESQ of `other` against `original`, 24 kHz speech `[N]`: 1.0 to 4.64, NaN without speech."""
    from pesq import PesqError  # an optional extra
    from pesq import pesq as measure

    if not original.any() or not other.any():
        return np.nan  # the package divides by the peaks
    # Errors are returned as negative numbers: no speech found, or a signal shorter than 0.25 s.
    score = measure(JUDGE_RATE, at_judge_rate(original), at_judge_rate(other), "wb", on_error=PesqError.RETURN_VALUES)
    return float(score) if score > 0 else np.nan


def stoi(original: np.ndarray, other: np.ndarray) -> float:
    """Return the short-time objective intelligibility (Taal et al. 2011) of `other` against `original`, at most 1.

    Both are 24 kHz speech `[N]`. NaN if less than 0.4 s of it is within 40 dB of the loudest frame.
    """
    from pystoi import stoi as measure  # an optional extra

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns and returns 1e-5
        try:
            return float(measure(original, other, SAMPLE_RATE))
        except RuntimeWarning:
            return np.nan
