"""Compiled training: equal to eager up to rounding, deterministic, and exact on resume."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers import NEEDS_COMPILER
from tests.jobs.training.small_runs import batches_of, small_model, train_context_32
from whisper_gpt.jobs.inference.run_folder import newest_checkpoint
from whisper_gpt.jobs.training.distributed import single_process
from whisper_gpt.jobs.training.step import train_step
from whisper_gpt.model.checkpoint import load_safetensors
from whisper_gpt.model.objective import Objective

pytestmark = [pytest.mark.slow, NEEDS_COMPILER, pytest.mark.usefixtures("tiny_presets")]


def test_compiled_step_matches_eager(dataset: Path) -> None:
    """Up to the order of float additions. Without mel noise: compiled code draws other random numbers for it."""
    eager, compiled, train_batches = small_model(), small_model(), batches_of(dataset, 2)
    objective = Objective(compiled)
    objective.compile()
    for model, model_objective in ((eager, Objective(eager)), (compiled, objective)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
        train_step(model_objective, [optimizer], train_batches, single_process("cpu"), clip=1e9, max_nats=100.0)
    assert not torch.equal(eager.head.weight, small_model().head.weight)
    for name, weights in eager.state_dict().items():
        assert torch.allclose(compiled.state_dict()[name], weights, atol=1e-6), name


def test_compiled_step_is_deterministic(dataset: Path) -> None:
    """Several threads add to the same rows of the embedding's gradient."""
    model, train_batches = small_model(), batches_of(dataset, 1, batch=16)
    objective, gradients = Objective(model), []
    objective.compile()
    model.embed.weight.register_hook(lambda gradient: gradients.append(gradient.clone()))
    torch.set_num_threads(4)
    for _ in range(100):
        train_step(objective, [], train_batches, single_process("cpu"), clip=1e9, max_nats=100.0)
        model.zero_grad()
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("model", ["hybrid-4m", "gpt-8m"])
def test_compiled_run_resumes_exactly(dataset: Path, tmp_path: Path, model: str) -> None:
    """Without packing, so that the window lengths differ from step to step."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    options = ["--model", model, "--steps=4", "--save-every=2", "--compile", "--no-pack", "--batch=1", "--seed=3"]
    torch.compiler.reset()
    assert train_context_32(dataset, whole, *options) == 0
    shutil.copytree(whole, resumed)
    shutil.rmtree(newest_checkpoint(resumed))
    torch.compiler.reset()  # as in a new process
    assert train_context_32(dataset, resumed, *options, "--resume") == 0
    expected, actual = (load_safetensors(newest_checkpoint(run) / "model.safetensors") for run in (whole, resumed))
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
