"""Resampling of a mono signal in blocks: soxr's linear-phase filter, or a causal one of minimum phase.

A linear-phase filter is symmetric, so each of its output samples depends on some input after it, if only a little. The
minimum-phase filter depends on the past alone. Its gain is soxr's within 0.02 dB up to 0.92 of the lower rate's Nyquist
frequency, and within 0.2 dB where soxr attenuates by up to 20 dB; above, both attenuate by 50 dB and more.
"""

import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache

import numpy as np
import soxr
from scipy.signal import firwin, minimum_phase, upfirdn

from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.treatment import Resampler

# The minimum-phase filter, fitted to soxr HQ: length in periods of the lower rate, cutoff as a share of its Nyquist
# frequency, and the shape of the Kaiser window.
_PERIODS, _CUTOFF, _KAISER = 160, 0.957, 9.0
_LARGEST_RATIO = 2_000  # of whole numbers: larger ones need a filter of a million taps
_FFT_FACTOR = 32  # of the cepstrum that gives the minimum phase, per tap: less would alias


def resampled(
    blocks: Iterable[np.ndarray],
    source_rate: float,
    sample_rate: int = SAMPLE_RATE,
    resampler: Resampler = "linear-phase",
) -> Iterator[np.ndarray]:
    """Yield the mono `blocks` float32 `[n]` of one recording, resampled.

    The output does not depend on the sizes of the blocks. Raises `AudioError` (stage `resample`) if that fails.
    """
    if source_rate == sample_rate:
        return (block for block in blocks if len(block))
    if resampler == "minimum-phase":
        return _minimum_phase(blocks, Fraction(sample_rate) / Fraction(source_rate).limit_denominator(1_000))
    return _linear_phase(blocks, source_rate, sample_rate)


def _linear_phase(blocks: Iterable[np.ndarray], source_rate: float, sample_rate: int) -> Iterator[np.ndarray]:
    """Resample by soxr HQ."""
    stream = soxr.ResampleStream(source_rate, sample_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        if len(out := _soxr_step(stream, block, last=False)):
            yield out
    if len(tail := _soxr_step(stream, np.zeros(0, np.float32), last=True)):
        yield tail


def _soxr_step(stream: soxr.ResampleStream, block: np.ndarray, last: bool) -> np.ndarray:
    try:
        return stream.resample_chunk(np.ascontiguousarray(block), last=last)
    except (RuntimeError, ValueError) as error:
        raise AudioError("resample", str(error)) from error


def _minimum_phase(blocks: Iterable[np.ndarray], ratio: Fraction) -> Iterator[np.ndarray]:
    """Resample by `ratio` with a polyphase FIR filter: output n depends on the input up to n / ratio, and on no more.

    N samples give ceil(N · ratio).
    """
    up, down = ratio.numerator, ratio.denominator
    if max(up, down) > _LARGEST_RATIO:
        raise AudioError("resample", f"no minimum-phase filter for a ratio of {ratio}; use the linear-phase resampler")
    taps = _minimum_phase_taps(up, down)
    reach = math.ceil(len(taps) / up)  # input samples that an output depends on
    history, begin, made = np.zeros(0, np.float32), 0, 0  # `history` starts at input sample `begin`
    for block in blocks:
        history = np.concatenate([history, block])
        ready = math.ceil((begin + len(history)) * ratio)
        if ready > made:
            first = math.floor(begin * ratio)  # exact: `begin` is a multiple of `down`
            yield upfirdn(taps, history, up, down)[made - first : ready - first].astype(np.float32)
            made = ready
        keep_from = max(begin, (math.floor(made / ratio) - reach) // down * down)
        history, begin = history[keep_from - begin :], keep_from


@lru_cache(maxsize=8)
def _minimum_phase_taps(up: int, down: int) -> np.ndarray:
    """Return the filter at `up` times the input's rate, with a gain of `up`: float64."""
    slower = max(up, down)  # samples at that rate per period of the lower of the two rates
    linear = firwin(_PERIODS * slower + 1, _CUTOFF / slower, window=("kaiser", _KAISER))
    n_fft = 1 << (_FFT_FACTOR * len(linear)).bit_length()
    return minimum_phase(linear, method="homomorphic", n_fft=n_fft, half=False) * up
