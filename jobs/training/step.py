"""One optimizer step: gradients of some batches over all ranks, looked at before they are believed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from whisper_gpt.jobs.training.ranks import Precision, Ranks, autocast
from whisper_gpt.pipeline.stream import Batch


@dataclass(frozen=True)
class StepResult:
    """Means over all ranks and batches of the step, before its change of the weights; `tokens` is their sum.

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
    """Change the parameters of `objective` by the mean gradient of `batches`, at the learning rate that is set.

    The norm of the gradient is cut to `clip`; a loss of `most_nats` a token or more is out of bounds. No more than the
    `codebooks` that the model needs go to the device.
    """
    seen = []
    for index, batch in enumerate(batches):
        last = index == len(batches) - 1
        with ranks.exchange(objective, last), autocast(precision, ranks.device):
            here = batch.to(ranks.device, codebooks)
            losses = objective(here.codes, here.mel, here.mask, here.segments)
            (losses.total / len(batches)).backward()
        values = (losses.token_nats, losses.mel_nats, losses.accuracy, here.mask.sum())
        seen.append(torch.stack([value.detach().double() for value in values]))
    gradient_norm = nn.utils.clip_grad_norm_(objective.parameters(), clip)
    # The one place of a step where a GPU is waited for.
    *own, norm = torch.cat([torch.stack(seen).sum(dim=0), gradient_norm.double()[None]]).tolist()
    *sums, tokens = ranks.sum(own)
    token_nats, mel_nats, accuracy = (total / (len(batches) * ranks.world) for total in sums)
    healthy = all(map(math.isfinite, (token_nats, mel_nats, norm))) and token_nats < most_nats
    for optimizer in optimizers:
        if healthy:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return StepResult(token_nats, mel_nats, accuracy, norm, int(tokens), healthy)
