"""Augmentation of training crops: mixing, reverberation, equalisation, noise and clipping, from a random generator.

It prepares a codec for recordings unlike its training data. Each effect is applied to a minority of the crops, so that
most of the training uses clean audio. Level and equaliser leave the sound clean; the other effects degrade it.
"""

from collections.abc import Callable

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal import fftconvolve

from whisper_gpt.pipeline.frames import SAMPLE_RATE

# Share of the crops that each effect is applied to, independently of the others.
_MIX, _ROOM, _EQUALISER, _NOISE, _CLIPPING = 0.10, 0.10, 0.15, 0.10, 0.03
_GAIN_DB = (-15.0, 6.0)
_TINY = 1e-9


def augment(
    crop: np.ndarray, draw_other: Callable[[], np.ndarray], random: np.random.Generator, degraded: float = 1.0
) -> np.ndarray:
    """Return an augmented copy of `crop` float32 `[N]`, within ±1; `draw_other` returns a crop `[N]` to mix in.

    `degraded` multiplies the shares of the effects that degrade the sound.
    """
    if random.random() < degraded * _MIX:
        crop = add_at_snr(crop, draw_other(), snr_db=random.uniform(0.0, 15.0))
    if random.random() < degraded * _ROOM:
        crop = in_a_room(crop, random)
    if random.random() < _EQUALISER:
        crop = equalised(crop, random)
    if random.random() < degraded * _NOISE:
        crop = add_at_snr(crop, coloured_noise(len(crop), random), snr_db=random.uniform(5.0, 35.0))
    crop = crop * np.float32(10 ** (random.uniform(*_GAIN_DB) / 20))
    if random.random() < degraded * _CLIPPING:
        peak = float(np.abs(crop).max())
        crop = np.clip(crop, -0.5 * peak, 0.5 * peak)
    return np.clip(crop, -1, 1).astype(np.float32)


def add_at_snr(signal: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add `noise` to `signal`, both `[N]`, scaled so that their power ratio is `snr_db`; silence adds nothing."""
    power, noise_power = float(np.square(signal).mean()), float(np.square(noise).mean())
    if noise_power < _TINY:
        return signal
    return signal + noise * np.float32(np.sqrt(power / noise_power * 10 ** (-snr_db / 10)))


def in_a_room(signal: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Add synthetic reverberation to `signal` `[N]`: exponentially decaying noise after the direct sound.

    The decay to −60 dB takes 0.1 to 0.7 s; the power of the direct sound is unchanged.
    """
    decay_s = random.uniform(0.1, 0.7)
    t = np.arange(int(decay_s * SAMPLE_RATE), dtype=np.float32) / SAMPLE_RATE
    tail = random.standard_normal(len(t), dtype=np.float32) * np.exp(-6.9 * t / decay_s)
    tail[: int(random.uniform(0.002, 0.015) * SAMPLE_RATE)] = 0  # the first reflection's delay
    tail *= np.float32(random.uniform(0.1, 0.7) / np.linalg.norm(tail))
    return signal + fftconvolve(signal, tail)[: len(signal)].astype(np.float32)


def equalised(signal: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Filter `signal` `[N]` by a smooth random gain curve of up to ±9 dB between 60 Hz and 12 kHz (zero phase)."""
    size = next_fast_len(len(signal) + 2048, real=True)
    frequency = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    points = np.geomspace(60, SAMPLE_RATE / 2, 6)
    gain_db = np.interp(np.log(np.maximum(frequency, 60)), np.log(points), random.uniform(-9, 9, len(points)))
    return irfft(rfft(signal, size) * 10 ** (gain_db / 20), size)[: len(signal)].astype(np.float32)


def coloured_noise(samples: int, random: np.random.Generator) -> np.ndarray:
    """Noise float32 `[samples]` whose power falls with frequency as f^−a, a drawn from 0 (white) to 2 (brown)."""
    size = next_fast_len(samples, real=True)
    spectrum = rfft(random.standard_normal(size, dtype=np.float32))
    slope = np.maximum(np.fft.rfftfreq(size), 1 / 256) ** (-random.uniform(0, 2) / 2)
    return irfft(spectrum * slope, size)[:samples].astype(np.float32)
