"""The resamplers keep the waveform; neither depends on the blocks, and the minimum-phase one not on the future."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.resampling import resampled
from whisper_gpt.pipeline.treatment import Resampler

RATES = [8_000, 16_000, 22_050, 44_100, 48_000]


def resample(wav: np.ndarray, rate: float, resampler: Resampler = "minimum-phase") -> np.ndarray:
    return np.concatenate(list(resampled([wav], rate, resampler=resampler)))


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("resampler", ["linear-phase", "minimum-phase"])
def test_output_does_not_depend_on_the_blocks(rate: int, resampler: Resampler) -> None:
    wav = noise(2 * rate + 77)
    whole = resample(wav, rate, resampler)
    for size in (17, 4099, rate):
        blocks = [wav[at : at + size] for at in range(0, len(wav), size)]
        assert np.array_equal(np.concatenate(list(resampled(blocks, rate, resampler=resampler))), whole)


@pytest.mark.parametrize("rate", RATES)
@settings(max_examples=10)
@given(change=st.integers(100, 900))
def test_minimum_phase_output_depends_on_the_past_alone(rate: int, change: int) -> None:
    wav = noise(1000)
    changed = np.concatenate([wav[:change], -wav[change:]])
    differs = np.flatnonzero(resample(wav, rate) != resample(changed, rate))
    assert differs[0] * rate >= change * 24_000


def test_linear_phase_output_depends_on_the_future() -> None:
    wav = noise(1000)
    changed = np.concatenate([wav[:500], -wav[500:]])
    differs = np.flatnonzero(resample(wav, 16_000, "linear-phase") != resample(changed, 16_000, "linear-phase"))
    assert differs[0] < 750


@pytest.mark.parametrize("rate", RATES)
def test_minimum_phase_keeps_what_both_rates_can_hold_and_nothing_else(rate: int) -> None:
    t = np.arange(rate) / rate

    def gain_db(frequency: float) -> float:
        tone = np.sin(2 * np.pi * frequency * t).astype(np.float32)
        return 20 * float(np.log10(np.std(resample(tone, rate)[2000:]) / np.std(tone) + 1e-9))

    lower = min(rate, 24_000)
    assert abs(gain_db(440)) < 0.01 and abs(gain_db(0.45 * lower)) < 0.01
    assert rate <= 24_000 or gain_db(13_500) < -80  # would be an alias


@pytest.mark.parametrize("rate", RATES)
def test_both_resamplers_have_the_same_gain(rate: int) -> None:
    impulse = np.zeros(4 * rate, np.float32)
    impulse[2 * rate] = 1.0

    def gain_db(resampler: Resampler, share: float) -> float:
        response = resample(impulse, rate, resampler).astype(np.float64)
        at = share * min(rate, 24_000) / 2 * np.arange(len(response)) / 24_000
        return 20 * float(np.log10(np.abs(np.sum(response * np.exp(-2j * np.pi * at))) * rate / 24_000))

    for share in (0.05, 0.3, 0.6, 0.85, 0.92):
        assert gain_db("minimum-phase", share) == pytest.approx(gain_db("linear-phase", share), abs=0.02)
    assert gain_db("minimum-phase", 0.95) == pytest.approx(gain_db("linear-phase", 0.95), abs=0.2)


def test_minimum_phase_refuses_a_ratio_of_huge_numbers() -> None:
    with pytest.raises(AudioError, match="use the linear-phase resampler"):
        resample(noise(100), 16_000 * 1.00137)
