"""Scores of continuations: a drone and silence show in their numbers."""

import numpy as np
import pytest

from whisper_gpt.jobs.inference.generation_scores import Continued, continuation_scores, mel_distance


def silence(wav: np.ndarray) -> tuple[float, float]:
    scores = continuation_scores(Continued(np.arange(9), wav, wav), "none")
    return scores["sounding"].value, scores["longest_silence_s"].value


def test_silence_is_measured_against_the_loudest_part() -> None:
    wav = np.random.default_rng(0).standard_normal(48_000) * 0.1
    assert silence(wav) == (1, 0)
    wav[12_000:36_000] *= 1e-3
    assert silence(wav) == pytest.approx((0.5, 1.0), abs=0.03)
    assert silence(np.zeros(24_000)) == (0, 1.0)


def test_a_drone_shows_in_its_scores() -> None:
    noise = np.random.default_rng(0).standard_normal(75 * 320)
    drone = continuation_scores(Continued(np.full(75, 3), noise, noise), "none")
    varied = continuation_scores(Continued(np.arange(75), noise, noise), "none")
    assert drone["commonest_code"].value == 1 and varied["commonest_code"].value == pytest.approx(1 / 75)
    assert drone["code_entropy"].value < varied["code_entropy"].value
    assert varied["repeated_codes"].value == 0 and drone["repeated_codes"].value == pytest.approx(71 / 72)


def test_mel_distance_grows_with_another_sound() -> None:
    random, seconds = np.random.default_rng(0), np.arange(48_000) / 24_000
    noise = [0.1 * random.standard_normal(48_000).astype(np.float32) for _ in range(2)]
    tone = (0.1 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)
    same, other = (Continued(np.arange(9), wav, noise[1]) for wav in (noise[0], tone))
    assert 10 * mel_distance([same], [noise[1]]) < mel_distance([other], [noise[1]])


def test_music_is_compared_with_its_prompt() -> None:
    def chord(*hz: float) -> np.ndarray:
        t = np.arange(48_000) / 24_000
        return (
            sum(np.sin(2 * np.pi * f * t) for f in hz).astype(np.float32)
            / 10
            * np.exp(-3 * (t % 0.5)).astype(np.float32)
        )

    c_major, f_sharp = chord(261.6, 329.6, 392.0), chord(370.0, 466.2, 554.4)
    like, unlike = (continuation_scores(Continued(np.arange(9), c_major, p), "music") for p in (c_major, f_sharp))
    assert like["pitch_class_divergence"].value == 0 < 0.2 < unlike["pitch_class_divergence"].value
    assert 1 <= like["onsets_per_s"].value <= 3  # a new chord each half second
    assert "dnsmos_overall" not in like
