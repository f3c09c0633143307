"""Three seconds of synthetic speech-like sound, generated from harmonics and formants."""

import numpy as np
import pytest

from whisper_gpt.pipeline.frames import SAMPLE_RATE


def voiced(pitch: float, seconds: float = 3.0) -> np.ndarray:
    """A voice-like sound, float32 `[N]`: harmonics of a varying pitch under three formants, modulated in syllables."""
    t = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.1 * np.sin(2 * np.pi * 1.3 * t))) / SAMPLE_RATE
    sound = np.zeros(len(t))
    for harmonic in range(1, int(7_000 / pitch)):
        weight = sum(np.exp(-(((harmonic * pitch - formant) / 150) ** 2)) for formant in (600, 1_400, 2_600))
        sound += (weight + 0.01) * np.sin(harmonic * phase)
    sound *= np.sin(2 * np.pi * 2 * t) ** 2
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)


@pytest.fixture(scope="session")
def speech() -> np.ndarray:
    """3 s of a low voice at 24 kHz."""
    return voiced(110)


@pytest.fixture(scope="session")
def noise() -> np.ndarray:
    """White noise as long as `speech`, at −20 dB."""
    return (0.1 * np.random.default_rng(0).standard_normal(3 * SAMPLE_RATE)).astype(np.float32)
