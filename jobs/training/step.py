"""One optimizer step: gradients of some batches over all ranks, looked at before they are believed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from whisper_gpt.jobs.training.distributed import Precision, Ranks, autocast, reproducible
from whisper_gpt.pipeline.loading.stream import Batch


@dataclass(frozen=True)
class StepResult:
    """Means over all `tokens` of the step, of all its batches and ranks, before its change of the weights.

    `healthy` is False where a number was out of bounds: then the weights were left as they are.
    """

    token_nats: float
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
    most_nats: float,
    precision: Precision = "fp32",
    codebooks: int = 1,
) -> StepResult:
    """Change the parameters of `objective` by the gradient of its mean over all unmasked frames of the `batches` of all
    ranks, at the learning rate that is set.

    The norm of the gradient is cut to `clip`; a loss of `most_nats` a token or more is out of bounds. No more than the
    `codebooks` that the model needs go to the device.
    """
    seen = []
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        with reproducible(ranks.device), ranks.exchange(objective, last):
            here = batch.to(ranks.device, codebooks)
            with autocast(precision, ranks.device):
                losses = objective(here.codes, here.mel, here.mask, here.segments)
            losses.total.backward()
        values = (losses.token_nats, losses.mel_nats, losses.correct, losses.frames)
        seen.append(torch.stack([value.detach().double() for value in values]))
    *sums, tokens = ranks.add(torch.stack(seen).sum(dim=0)).unbind()
    gradients = [parameter.grad for parameter in objective.parameters() if parameter.grad is not None]
    # The sum over all frames was averaged over ranks; divided by the frames only here, where their number is known.
    torch._foreach_mul_(gradients, (ranks.world / tokens.clamp_min(1)).float())
    gradient_norm = nn.utils.clip_grad_norm_(objective.parameters(), clip)
    means = [total / tokens.clamp_min(1) for total in sums]
    # The one place of a step where a GPU is waited for.
    token_nats, mel_nats, accuracy, norm, count = torch.stack([*means, gradient_norm.double(), tokens]).tolist()
    healthy = all(map(math.isfinite, (token_nats, mel_nats, norm))) and token_nats < most_nats
    for optimizer in optimizers:
        if healthy:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return StepResult(token_nats, mel_nats, accuracy, norm, int(count), healthy)
