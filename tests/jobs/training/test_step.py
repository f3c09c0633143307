"""One optimizer step: the gradient of the mean over all frames, however they are split into batches and ranks."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from whisper_gpt.jobs.training.distributed import Ranks, single_process
from whisper_gpt.jobs.training.step import StepResult, train_step
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.objective import Objective
from whisper_gpt.pipeline.loading.batch import Batch

# Without mel noise, which is drawn per batch.
HYBRID = ModelConfig(
    "small", 32, context=24, width=16, layers=1, heads=2, mel_bands=4, mel_width=8, mel_heads=1, mel_layers=1,
    mel_dropout=0.0, mel_noise=0.0,
)  # fmt: skip
SHAPES = {
    "hybrid": HYBRID,
    "token-only": replace(HYBRID, mel_bands=0),
    # Every frame in the depth decoder's sample: a smaller one is drawn for each batch.
    "all codebooks": replace(
        HYBRID, input_codebooks=2, output_codebooks=2, depth_width=8, depth_layers=1, depth_frames=1.0
    ),
}
FRAMES = (24, 3, 11, 0, 1, 24)  # unmasked frames per window; one window has none


def windows(config: ModelConfig) -> list[Batch]:
    """One batch per window."""
    generator = torch.Generator().manual_seed(0)
    window_batches = []
    for i, frames in enumerate(FRAMES):
        codes = torch.randint(config.vocab, (1, 2, 24), generator=generator)
        mel = torch.randn(1, 24, 4, generator=generator)
        window_batches.append(Batch(codes, mel, torch.arange(24)[None] < frames, None, [(str(i),)], [(0,)]))
    return window_batches


def joined(batches: list[Batch]) -> Batch:
    codes, mel, mask = (torch.cat([getattr(b, name) for b in batches]) for name in ("codes", "mel", "mask"))
    return Batch(codes, mel, mask, None, [key for b in batches for key in b.keys], [(0,)] * len(mask))


def step(config: ModelConfig, batches: list[Batch], ranks: Ranks) -> tuple[StepResult, dict[str, torch.Tensor]]:
    """One step of plain SGD on a seeded model; return its result and the weights after it."""
    torch.manual_seed(0)
    model = HybridLM(config).train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    objective, optimizer = ranks.wrap(Objective(model)), torch.optim.SGD(model.parameters(), lr=1.0, fused=True)
    pending = train_step(objective, [optimizer], batches, ranks, clip=1e9, max_nats=100.0, codebooks=2)
    return pending.wait(), model.state_dict()


def require_same(
    actual_step: tuple[StepResult, dict[str, torch.Tensor]], expected_step: tuple[StepResult, dict[str, torch.Tensor]]
) -> None:
    (result, weights), (expected, expected_weights) = actual_step, expected_step
    assert result.tokens == expected.tokens == sum(FRAMES)
    for name in ("token_nats", "mel_nats", "accuracy", "gradient_norm"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name), rel=1e-5), name
    assert result.finer_nats == pytest.approx(expected.finer_nats, rel=1e-5)
    for name, weight in expected_weights.items():
        assert torch.allclose(weights[name], weight, atol=2e-6), name


@pytest.mark.parametrize("shape", SHAPES)
def test_uneven_batches_equal_one_large_batch(shape: str) -> None:
    config, ranks = SHAPES[shape], single_process("cpu")
    separate = windows(config)
    whole = step(config, [joined(separate)], ranks)
    require_same(step(config, separate, ranks), whole)
    require_same(step(config, [joined(separate[:2]), joined(separate[2:])], ranks), whole)


def ranks_step(rank: int, shape: str, meeting: str) -> tuple[StepResult, dict[str, torch.Tensor]]:
    """A step on one of two ranks that rendezvous at a file; each has three of the windows, in two batches."""
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    try:
        rank_windows = windows(SHAPES[shape])[3 * rank : 3 * rank + 3]
        result = step(SHAPES[shape], [rank_windows[0], joined(rank_windows[1:])], Ranks(rank, 2, torch.device("cpu")))
        dist.barrier()  # gloo aborts a process whose peer closes the connection while it still uses it
        return result
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("shape", SHAPES)
def test_uneven_ranks_equal_one_large_batch(shape: str, tmp_path: Path) -> None:
    """Two gloo ranks, one with 38 frames and the second_rank with 25."""
    meeting = str(tmp_path / "meeting")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    second_rank = subprocess.Popen(
        [sys.executable, "-c", f"import os, test_step; test_step.ranks_step(1, {shape!r}, {meeting!r}); os._exit(0)"],
        env=environment,
    )
    first_rank_result = ranks_step(0, shape, meeting)
    assert second_rank.wait(60) == 0
    require_same(first_rank_result, step(SHAPES[shape], [joined(windows(SHAPES[shape]))], single_process("cpu")))


def test_step_without_frames_has_zero_loss_and_gradient() -> None:
    batch = windows(HYBRID)[3]
    result, weights = step(HYBRID, [batch], single_process("cpu"))
    assert (result.tokens, result.token_nats, result.gradient_norm) == (0, 0.0, 0.0)
    assert all(bool(weight.isfinite().all()) for weight in weights.values())


def test_backward_runs_outside_autocast() -> None:
    model, seen = HybridLM(HYBRID).train(), []
    model.head.weight.register_hook(lambda _: seen.append(torch.is_autocast_enabled("cpu")))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    options = {"clip": 1e9, "max_nats": 100.0}
    train_step(Objective(model), [optimizer], windows(HYBRID)[:1], single_process("cpu"), precision="bf16", **options)
    assert seen == [False]


def test_values_of_rank_0_travel_with_the_sums() -> None:
    model = HybridLM(HYBRID).train()
    options = {"clip": 1e9, "max_nats": 100.0, "main_values": lambda: (2.5, 1.0)}
    batches = windows(HYBRID)
    for ranks, expected in ((single_process("cpu"), (2.5, 1.0)), (Alone(1, 2, torch.device("cpu")), (0.0, 0.0))):
        result = train_step(Objective(model), [], batches, ranks, **options).wait()
        assert (result.main_values, result.tokens) == (expected, sum(FRAMES))


class Alone(Ranks):
    """A rank whose peers add nothing."""

    def add(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_optimizer_that_cannot_skip_a_step_is_refused() -> None:
    model = HybridLM(HYBRID).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="SGD cannot skip a step; pass fused=True"):
        train_step(Objective(model), [optimizer], windows(HYBRID), single_process("cpu"), clip=1e9, max_nats=100.0)
