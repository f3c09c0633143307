"""Drawing tokens."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.sampling import Sampling, sample


def draws(logits: list[float], how: Sampling, count: int = 2000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return sample(torch.tensor([logits] * count), how, generator)


def test_temperature_0_takes_the_most_likely_token() -> None:
    assert draws([0.0, 3.0, 1.0], Sampling(temperature=0), 3).tolist() == [1, 1, 1]


def test_temperature_sharpens_and_flattens() -> None:
    shares = [(draws([0.0, 1.0], Sampling(temperature=t)) == 1).float().mean().item() for t in (0.25, 1.0, 4.0)]
    expected = [1 / (1 + math.exp(-1 / t)) for t in (0.25, 1.0, 4.0)]
    assert shares == pytest.approx(expected, abs=0.04)


def test_top_k_keeps_k() -> None:
    assert set(draws([1.0, 2.0, 3.0, 4.0], Sampling(top_k=2)).tolist()) == {2, 3}


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.15, 0.25)]
    assert set(draws(logits, Sampling(top_p=0.5)).tolist()) == {1}
    assert set(draws(logits, Sampling(top_p=0.7)).tolist()) == {1, 3}
    assert set(draws(logits, Sampling(top_p=0.01)).tolist()) == {1}


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=9), st.floats(0.05, 3), st.integers(0, 9), st.floats(0.01, 1))
def test_truncation_always_leaves_a_token(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    token = draws(logits, Sampling(temperature, top_k, top_p), 1).item()
    assert 0 <= token < len(logits)


def test_sampling_depends_on_the_seed() -> None:
    assert torch.equal(draws([0.0] * 50, Sampling()), draws([0.0] * 50, Sampling()))


@pytest.mark.parametrize("how", [{"temperature": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -2}])
def test_impossible_settings_are_refused(how: dict) -> None:
    with pytest.raises(ModelError):
        Sampling(**how)
