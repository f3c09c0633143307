"""Statistics of codes: a drone and another distribution show in their numbers."""

import math

import numpy as np
import pytest

from whisper_gpt.pipeline.judge.codes import commonest_share, entropy, repeated_share, unigram_divergence


def test_entropy_is_zero_for_a_drone_and_log_n_for_n_codes() -> None:
    assert entropy(np.full(50, 7)) == 0
    assert entropy(np.arange(64)) == pytest.approx(math.log(64))


def test_commonest_share_is_one_for_a_drone() -> None:
    assert commonest_share(np.full(50, 7)) == 1
    assert commonest_share(np.array([1, 2, 2, 3])) == 0.5


def test_divergence_is_zero_for_equal_and_log_two_for_disjoint_codes() -> None:
    one, other = [np.arange(8), np.arange(8)], [np.arange(8, 16)]
    assert unigram_divergence(one, one, 16) == 0
    assert unigram_divergence(one, other, 16) == pytest.approx(math.log(2))


def test_repeats_are_counted_from_the_second_occurrence() -> None:
    assert repeated_share(np.array([1, 2, 3, 4, 1, 2, 3, 4])) == pytest.approx(1 / 5)
    assert math.isnan(repeated_share(np.array([1, 2, 3])))
