"""One optimizer step with gradient accumulation; skipped if a number is not finite or the loss is too large.

The step is decided and taken on the device. Its numbers can be read later, while the device computes the next step.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from whisper_gpt.jobs.training.distributed import Precision, Ranks, autocast, reproducible
from whisper_gpt.pipeline.loading.stream import Batch


@dataclass(frozen=True)
class StepResult:
    """Means over all `tokens` of the step, of all its batches and ranks, before its update.

    `healthy` is False if a number was out of bounds; the update was then skipped. `main_values` are those of rank 0.
    """

    token_nats: float  # of the coarsest codebook
    finer_nats: tuple[float, ...]  # of each of the others that the model predicts
    mel_nats: float
    accuracy: float
    gradient_norm: float
    tokens: int
    healthy: bool
    main_values: tuple[float, ...]


class PendingResult:
    """The result of a step that the device may not have finished; `healthy` is a bool scalar on the device."""

    def __init__(self, healthy: torch.Tensor, numbers: torch.Tensor, n_main_values: int):
        self.healthy = healthy
        self._numbers = numbers.to("cpu", non_blocking=True)  # from a GPU into pinned memory
        self._n_main_values = n_main_values
        self._copied = torch.cuda.Event() if numbers.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def wait(self) -> StepResult:
        """Return the result as soon as the device has it: the only host sync of a step."""
        if self._copied is not None:
            self._copied.synchronize()
        numbers = self._numbers.tolist()
        main_values = tuple(numbers[: self._n_main_values])
        *finer_nats, token_nats, mel_nats, accuracy, norm, tokens, healthy = numbers[self._n_main_values :]
        return StepResult(
            token_nats, tuple(finer_nats), mel_nats, accuracy, norm, int(tokens), bool(healthy), main_values
        )


def train_step(
    objective: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    batches: Sequence[Batch],
    ranks: Ranks,
    *,
    clip: float,
    max_nats: float,
    precision: Precision = "fp32",
    codebooks: int = 1,
    main_values: Callable[[], Sequence[float]] = tuple,
) -> PendingResult:
    """Update the parameters of `objective` by the gradient of its mean over all unmasked frames of the `batches` of all
    ranks, at the learning rate that is set in `optimizers`.

    The gradient norm is clipped to `clip`; a loss of `max_nats` per token or more is out of bounds. Only the first
    `codebooks` are those that the model reads or predicts. The `optimizers` are fused ones of torch, or `StackedMuon`:
    they must skip a step whose `found_inf` is 1. `main_values` is called after the backward pass, and what it returns
    on rank 0 is in the result of every rank.
    """
    batch_sums = []
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        with reproducible(ranks.device), ranks.grad_sync(objective, last):
            on_device = batch.to(ranks.device, codebooks)
            with autocast(precision, ranks.device):
                losses = objective(on_device.codes, on_device.mel, on_device.mask, on_device.doc_ids)
            losses.total.backward()
        values = (*losses.finer_nats, losses.token_nats, losses.mel_nats, losses.correct, losses.frames)
        batch_sums.append(torch.stack([value.detach().double() for value in values]))
    shared = ranks.main_only(main_values())
    reduced = ranks.add(torch.cat([shared, torch.stack(batch_sums).sum(dim=0)]))  # the step's only reduction but DDP's
    shared, sums, tokens = reduced[: len(shared)], reduced[len(shared) : -1], reduced[-1]
    gradients = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
    # DDP averaged the sums of the ranks. The number of frames of all batches and ranks is known only now.
    torch._foreach_mul_(gradients, (ranks.world_size / tokens.clamp_min(1)).float())
    norm = nn.utils.clip_grad_norm_(objective.parameters(), clip).double()
    means = sums / tokens.clamp_min(1)
    token_nats = means[-3]
    healthy = means.isfinite().all() & norm.isfinite() & (token_nats < max_nats)
    numbers = torch.cat([shared, means, torch.stack([norm, tokens, healthy.double()])])
    result = PendingResult(healthy, numbers, len(shared))
    for optimizer in optimizers:
        _step_if(optimizer, healthy)
        optimizer.zero_grad(set_to_none=True)
    return result


def _step_if(optimizer: torch.optim.Optimizer, healthy: torch.Tensor) -> None:
    """Take a step of `optimizer` if `healthy`, which only the device knows, by the flag of torch's GradScaler."""
    if not getattr(optimizer, "_step_supports_amp_scaling", False):
        raise TypeError(f"{type(optimizer).__name__} cannot skip a step; pass fused=True")
    optimizer.found_inf = (~healthy).float()  # type: ignore[attr-defined]
    try:
        optimizer.step()
    finally:
        del optimizer.found_inf  # type: ignore[attr-defined]
