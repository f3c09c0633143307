"""The gradient of several losses at one tensor, each with a fixed share of it."""

from collections.abc import Sequence

import torch


def balanced_gradient(losses: Sequence[tuple[torch.Tensor, float]], at: torch.Tensor) -> torch.Tensor:
    """The sum of the gradients of `losses` (each with its share) at the tensor `at`, each scaled to its share's norm.

    So a share says how much a loss counts, whatever its unit (Défossez et al. 2022, arXiv 2210.13438, section 3.4,
    without their running average: the norms are this step's own).
    """
    total = torch.zeros_like(at)
    for loss, share in losses:
        (gradient,) = torch.autograd.grad(loss, [at], retain_graph=True)
        total += share * gradient / gradient.norm().clamp_min(1e-12)
    return total
