"""Combine the gradients of several losses at one tensor, each with a fixed share of the norm."""

from collections.abc import Sequence

import torch


def balanced_gradient(losses: Sequence[tuple[torch.Tensor, float]], at: torch.Tensor) -> torch.Tensor:
    """Sum the gradients of `losses` (pairs of loss and share) at the tensor `at`, each scaled to its share's norm.

    So a share determines the weight of a loss, whatever its unit (Défossez et al. 2022, arXiv 2210.13438, section 3.4,
    but with the norms of this step only, not their running average).
    """
    total = torch.zeros_like(at)
    for loss, share in losses:
        (gradient,) = torch.autograd.grad(loss, [at], retain_graph=True)
        total += share * gradient / gradient.norm().clamp_min(1e-12)
    return total
