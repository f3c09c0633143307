"""One optimizer step with gradient accumulation; skipped if a number is not finite or the loss is too large."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from whisper_gpt.jobs.training.distributed import Precision, Ranks, autocast, reproducible
from whisper_gpt.pipeline.loading.stream import Batch


@dataclass(frozen=True)
class StepResult:
    """Means over all `tokens` of the step, of all its batches and ranks, before its update.

    `healthy` is False if a number was out of bounds; the update was then skipped.
    """

    token_nats: float  # of the coarsest codebook
    finer_nats: tuple[float, ...]  # of each of the others that the model predicts
    mel_nats: float
    accuracy: float
    gradient_norm: float
    tokens: int
    healthy: bool


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
) -> StepResult:
    """Update the parameters of `objective` by the gradient of its mean over all unmasked frames of the `batches` of all
    ranks, at the learning rate that is set in `optimizers`.

    The gradient norm is clipped to `clip`; a loss of `max_nats` per token or more is out of bounds. Only the first
    `codebooks` are those that the model reads or predicts.
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
    *sums, tokens = ranks.add(torch.stack(batch_sums).sum(dim=0)).unbind()
    gradients = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
    # DDP averaged the sums of the ranks. The number of frames of all batches and ranks is known only now.
    torch._foreach_mul_(gradients, (ranks.world_size / tokens.clamp_min(1)).float())
    gradient_norm = nn.utils.clip_grad_norm_(objective.parameters(), clip)
    means = [total / tokens.clamp_min(1) for total in sums]
    # The only host sync of a step.
    *finer_nats, token_nats, mel_nats, accuracy, norm, count = torch.stack(
        [*means, gradient_norm.double(), tokens]
    ).tolist()
    healthy = all(map(math.isfinite, (*finer_nats, token_nats, mel_nats, norm))) and token_nats < max_nats
    for optimizer in optimizers:
        if healthy:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return StepResult(token_nats, tuple(finer_nats), mel_nats, accuracy, norm, int(count), healthy)
