"""Degradations do what they are named for, the same every time, and never change the length."""

from typing import get_args

import numpy as np
import pytest

from whisper_gpt.pipeline.degradation import degraded
from whisper_gpt.pipeline.treatment import Degradation, Treatment, noted, treatment_of

SPEECH = np.random.default_rng(1).standard_normal(70_000).astype(np.float32) * np.float32(0.1)


def degrade(wav: np.ndarray, degradation: Degradation, size: int = 24_000) -> np.ndarray:
    blocks = [wav[at : at + size] for at in range(0, len(wav), size)]
    return np.concatenate([np.zeros(0, np.float32), *degraded(lambda: iter(blocks), degradation)])


def power_db(wav: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(np.square(wav, dtype=np.float64))))


@pytest.mark.parametrize("degradation", get_args(Degradation))
def test_length_stays_and_blocks_do_not_matter(degradation: Degradation) -> None:
    out = degrade(SPEECH, degradation)
    assert out.shape == SPEECH.shape and out.dtype == np.float32 and np.isfinite(out).all()
    assert np.allclose(degrade(SPEECH, degradation, size=7001), out, atol=1e-6)
    assert np.array_equal(degrade(SPEECH, degradation), out)
    assert np.array_equal(out, SPEECH) == (degradation == "none")


@pytest.mark.parametrize("degradation", get_args(Degradation))
def test_silence_and_nothing_stay_so(degradation: Degradation) -> None:
    assert len(degrade(np.zeros(0, np.float32), degradation)) == 0
    assert np.abs(degrade(np.zeros(5000, np.float32), degradation)).max() < 1e-6


@pytest.mark.parametrize("snr_db", [20, 10, 0])
def test_noise_has_the_named_level_and_falls_with_frequency(snr_db: int) -> None:
    noise = degrade(SPEECH, f"noise-{snr_db}") - SPEECH
    assert power_db(SPEECH) - power_db(noise) == pytest.approx(snr_db, abs=0.5)
    spectrum = np.square(np.abs(np.fft.rfft(noise)))
    hertz = np.fft.rfftfreq(len(noise), 1 / 24_000)
    octaves = [spectrum[(low <= hertz) & (hertz < 2 * low)].sum() for low in (200, 800, 3200)]
    assert max(octaves) < 1.6 * min(octaves)  # pink: the same power in every octave


def test_noise_differs_between_recordings() -> None:
    first, second = (degrade(wav, "noise-0") - wav for wav in (SPEECH, SPEECH[::-1].copy()))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_room_reverberates_after_the_sound() -> None:
    click = np.zeros(24_000, np.float32)
    click[1000] = 1.0
    out = degrade(click, "room")
    assert out[1000] == pytest.approx(1.0, abs=1e-5) and not out[:1000].round(6).any()
    tail = out[1001:]
    assert power_db(tail[2000:5000]) > power_db(tail[8000:11_000]) + 10 and np.linalg.norm(tail) == pytest.approx(
        0.7, 0.1
    )


def test_telephone_keeps_its_band_alone() -> None:
    t = np.arange(48_000) / 24_000
    gains = [
        power_db(degrade(np.sin(2 * np.pi * hertz * t).astype(np.float32), "telephone")[12_000:])
        for hertz in (60, 1000, 8000)
    ]
    assert gains[1] == pytest.approx(-3.0, abs=0.2) and max(gains[0], gains[2]) < -40


def test_clipping_limits_the_amplitude() -> None:
    out = degrade(SPEECH, "clipped")
    assert np.abs(out).max() == pytest.approx(0.15, abs=0.002) and np.mean(out == out.max()) > 0.02


def test_only_unusual_treatments_are_noted() -> None:
    assert noted("", Treatment()) == "" and noted('{"subset": "x"}', Treatment()) == '{"subset": "x"}'
    treatment = Treatment(speed=1.1, degradation="mp3")
    extra = noted('{"subset": "x"}', treatment)
    assert extra == '{"subset": "x", "speed": 1.1, "degradation": "mp3"}' and treatment_of(extra) == treatment
    assert treatment_of("") == treatment_of('{"subset": "x"}') == Treatment()
