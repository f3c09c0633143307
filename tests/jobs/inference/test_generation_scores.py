"""Scores of continuations: a drone and silence show in their numbers."""

import numpy as np
import pytest

from whisper_gpt.jobs.inference.generation_scores import Continued, continuation_scores, longest_silence_s


def test_silence_is_measured_against_the_loudest_part() -> None:
    wav = np.random.default_rng(0).standard_normal(48_000) * 0.1
    assert longest_silence_s(wav) == 0
    wav[12_000:36_000] *= 1e-3
    assert longest_silence_s(wav) == pytest.approx(1.0, abs=0.03)
    assert longest_silence_s(np.zeros(24_000)) == 1.0


def test_a_drone_shows_in_its_scores() -> None:
    noise = np.random.default_rng(0).standard_normal(75 * 320)
    drone = continuation_scores(Continued(np.full(75, 3), noise, noise), judge=False)
    varied = continuation_scores(Continued(np.arange(75), noise, noise), judge=False)
    assert drone["commonest_code"].value == 1 and varied["commonest_code"].value == pytest.approx(1 / 75)
    assert drone["code_entropy"].value < varied["code_entropy"].value
