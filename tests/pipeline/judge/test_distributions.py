"""Distances of distributions, against values known in closed form."""

import numpy as np
import pytest

from whisper_gpt.pipeline.judge.distributions import frechet_distance


def test_frechet_distance_of_normal_distributions() -> None:
    random = np.random.default_rng(0)
    a = random.standard_normal((200_000, 3))
    b = random.standard_normal((200_000, 3)) * [1.0, 2.0, 3.0] + [0.0, 0.0, 4.0]
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    # With diagonal covariances: the squared distance of means and of standard deviations.
    assert frechet_distance(a, b) == pytest.approx(16 + 0 + 1 + 4, rel=0.01)
