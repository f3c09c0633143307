"""PESQ and STOI are best for the original, fall with noise, and are NaN without speech."""

import numpy as np
import pytest

from whisper_gpt.pipeline.judge.closeness import pesq, stoi


def test_pesq_falls_with_noise(speech: np.ndarray, noise: np.ndarray) -> None:
    pytest.importorskip("pesq", reason="needs the extra judge")
    scores = [pesq(speech, speech + gain * noise) for gain in (0.0, 0.01, 0.3)]
    assert scores[0] == pytest.approx(4.644, abs=0.01)
    assert scores[0] > scores[1] > scores[2] >= 1


def test_stoi_falls_with_noise(speech: np.ndarray, noise: np.ndarray) -> None:
    pytest.importorskip("pystoi", reason="needs the extra judge")
    scores = [stoi(speech, speech + gain * noise) for gain in (0.0, 0.1, 3)]
    assert scores[0] == pytest.approx(1, abs=1e-6)
    assert scores[0] > scores[1] > scores[2]


def test_scores_without_speech_are_nan(speech: np.ndarray) -> None:
    pytest.importorskip("pesq", reason="needs the extra judge")
    pytest.importorskip("pystoi", reason="needs the extra judge")
    silence, short = np.zeros_like(speech), speech[:4096]
    assert np.isnan(pesq(silence, silence)) and np.isnan(pesq(speech, silence)) and np.isnan(pesq(short, short))
    assert np.isnan(stoi(short, short))
