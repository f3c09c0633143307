"""DNSMOS scores equal those of the speechmos package, whatever the level of the audio."""

import numpy as np
import pytest

from whisper_gpt.pipeline.judge.dnsmos import dnsmos
from whisper_gpt.pipeline.judge.packages import JUDGE_RATE, at_judge_rate

pytest.importorskip("onnxruntime", reason="needs the extra judge")
reference = pytest.importorskip("speechmos.dnsmos", reason="needs the extra judge")


def test_scores_equal_those_of_the_package(speech: np.ndarray) -> None:
    expected = reference.run(at_judge_rate(speech), JUDGE_RATE)
    scores = dnsmos(speech)
    assert scores.overall == pytest.approx(expected["ovrl_mos"], abs=1e-3)
    assert scores.signal == pytest.approx(expected["sig_mos"], abs=1e-3)
    assert scores.background == pytest.approx(expected["bak_mos"], abs=1e-3)
    assert scores.p808 == pytest.approx(expected["p808_mos"], abs=1e-3)


def test_noise_lowers_the_background_score(speech: np.ndarray, noise: np.ndarray) -> None:
    assert dnsmos(speech + noise).background < dnsmos(speech).background - 0.5


def test_too_loud_audio_is_clipped(speech: np.ndarray) -> None:
    """The package refuses samples beyond ±1, which decoded audio may have."""
    assert dnsmos(5 * speech).overall >= 0.5
    samples = at_judge_rate(5 * speech)
    assert np.abs(samples).max() == 1.0 and samples.dtype == np.float32
    assert len(samples) == len(speech) * 2 // 3
