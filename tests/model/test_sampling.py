"""Sampling tokens from logits: temperature, top-k, top-p, seeds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.sampling import Sampling, gumbel_noise, sample


def draws(logits: list[float], sampling: Sampling, count: int = 2000) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = gumbel_noise(1, len(logits), [generator] * count)[:, 0]
    return sample(torch.tensor([logits] * count), sampling, noise)


def test_temperature_0_is_argmax() -> None:
    assert draws([0.0, 3.0, 1.0], Sampling(temperature=0), 3).tolist() == [1, 1, 1]


def test_temperature_scales_the_logits() -> None:
    shares = [(draws([0.0, 1.0], Sampling(temperature=t)) == 1).float().mean().item() for t in (0.25, 1.0, 4.0)]
    expected = [1 / (1 + math.exp(-1 / t)) for t in (0.25, 1.0, 4.0)]
    assert shares == pytest.approx(expected, abs=0.04)


def test_top_k_keeps_the_k_most_likely() -> None:
    assert set(draws([1.0, 2.0, 3.0, 4.0], Sampling(top_k=2)).tolist()) == {2, 3}


def test_top_p_keeps_the_smallest_set_reaching_p() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.15, 0.25)]
    assert set(draws(logits, Sampling(top_p=0.5)).tolist()) == {1}
    assert set(draws(logits, Sampling(top_p=0.7)).tolist()) == {1, 3}
    assert set(draws(logits, Sampling(top_p=0.01)).tolist()) == {1}


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=9), st.floats(0.05, 3), st.integers(0, 9), st.floats(0.01, 1))
def test_any_settings_give_a_valid_token(logits: list[float], temperature: float, top_k: int, top_p: float) -> None:
    token = draws(logits, Sampling(temperature, top_k, top_p), 1).item()
    assert 0 <= token < len(logits)


def test_same_seed_draws_the_same_tokens() -> None:
    assert torch.equal(draws([0.0] * 50, Sampling()), draws([0.0] * 50, Sampling()))


@pytest.mark.parametrize("settings", [{"temperature": -1}, {"top_p": 0.0}, {"top_p": 1.5}, {"top_k": -2}])
def test_impossible_settings_are_refused(settings: dict) -> None:
    with pytest.raises(ModelError):
        Sampling(**settings)
