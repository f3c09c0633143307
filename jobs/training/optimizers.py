"""Optimizers (AdamW, Muon), the learning-rate schedule, and the weight average."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from whisper_gpt.jobs.training.config import Config
from whisper_gpt.jobs.training.muon import StackedMuon
from whisper_gpt.model.language_model import LanguageModel


def build_optimizers(model: LanguageModel, config: Config) -> list[torch.optim.Optimizer]:
    """Return AdamW for all parameters; or Muon (Jordan et al. 2024) for the blocks' matrices and AdamW for the rest."""
    muon: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if config.optimizer == "muon" and parameter.dim() == 2 and "blocks." in name:
            muon.append(parameter)
        else:
            (matrices if parameter.dim() >= 2 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
    ]
    if muon:
        # Updates scaled to AdamW's RMS (Moonshot AI 2025), so that one learning rate serves both.
        optimizers.append(StackedMuon(muon, lr=config.learning_rate, weight_decay=config.weight_decay))
    return optimizers


def learning_rate(config: Config, done: float) -> float:
    """Return the rate after the share `done` of a run: linear warm-up, then cosine decay to a tenth of the peak."""
    if done < config.warmup:
        return config.learning_rate * (done + 1e-3) / (config.warmup + 1e-3)
    falling = (done - config.warmup) / (1 - config.warmup)
    return config.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, falling))))


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], rate: float) -> None:
    """Set the learning rate of all `optimizers`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, healthy: torch.Tensor) -> None:
    """Move the weights of `average`, an exponential moving average, towards those of `model`, if the bool `healthy`,
    which only the device knows (torch's `AveragedModel` would make the host wait). `decay` 0 copies them."""
    averages: list[torch.Tensor] = list(average.parameters())
    targets = [torch.where(healthy, new, old) for new, old in zip(model.parameters(), averages, strict=True)]
    torch._foreach_lerp_(averages, targets, 1 - decay)
