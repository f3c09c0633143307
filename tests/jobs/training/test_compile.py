"""Compiled training: the same step but for rounding, the same bits each time, an exact resume."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.helpers import NEEDS_COMPILER
from tests.jobs.training.small_runs import batches_of, small, train_small
from whisper_gpt.jobs.inference.run_folder import newest_checkpoint
from whisper_gpt.jobs.training.distributed import single_process
from whisper_gpt.jobs.training.step import train_step
from whisper_gpt.model.checkpoint import load_safetensors
from whisper_gpt.model.objective import Objective

pytestmark = [pytest.mark.slow, NEEDS_COMPILER, pytest.mark.usefixtures("tiny_presets")]


def test_compiled_step_equals_eager(dataset: Path) -> None:
    """But for the order of float additions. The hybrid's would not be: compiled code draws other random numbers."""
    plain, compiled, taken = small(), small(), batches_of(dataset, 2)
    objective = Objective(compiled)
    objective.compile()
    for model, of_model in ((plain, Objective(plain)), (compiled, objective)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        train_step(of_model, [optimizer], taken, single_process("cpu"), clip=1e9, max_nats=100.0)
    assert not torch.equal(plain.head.weight, small().head.weight)
    for name, weights in plain.state_dict().items():
        assert torch.allclose(compiled.state_dict()[name], weights, atol=1e-6), name


def test_compiled_step_is_deterministic(dataset: Path) -> None:
    """Several threads add to the same rows of the embedding's gradient."""
    model, taken = small(), batches_of(dataset, 1, batch=16)
    objective, gradients, before = Objective(model), [], torch.get_num_threads()
    objective.compile()
    model.embed.weight.register_hook(lambda gradient: gradients.append(gradient.clone()))
    torch.set_num_threads(4)
    try:
        for _ in range(100):
            train_step(objective, [], taken, single_process("cpu"), clip=1e9, max_nats=100.0)
            model.zero_grad()
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize("model", ["hybrid-4m", "gpt-8m"])
def test_a_compiled_run_resumes_exactly(dataset: Path, tmp_path: Path, model: str) -> None:
    """Without packing, so that windows' lengths differ from step to step."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = ["--model", model, "--steps=4", "--save-every=2", "--compile", "--no-pack", "--batch=1", "--seed=3"]
    torch.compiler.reset()
    assert train_small(dataset, whole, *options) == 0
    shutil.copytree(whole, cut)
    shutil.rmtree(newest_checkpoint(cut))
    torch.compiler.reset()  # as in a process of its own
    assert train_small(dataset, cut, *options, "--resume") == 0
    one, other = (load_safetensors(newest_checkpoint(run) / "model.safetensors") for run in (whole, cut))
    assert all(torch.equal(one[name], other[name]) for name in one)
