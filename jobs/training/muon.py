"""Muon (Jordan et al. 2024) over stacked matrices: one batched product instead of one per matrix."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch

from whisper_gpt.model.compilation import compiled_if


class StackedMuon(torch.optim.Muon):
    """torch's Muon with Nesterov momentum and updates of AdamW's RMS, with all matrices of one shape updated together.

    Its state is torch's, so checkpoints fit both. Like torch's fused optimizers it changes nothing in a step for which
    the attribute `found_inf`, a float32 scalar on the device, is set to 1.

    On a GPU a step is a few kernels, which torch generates, instead of some thirty per matrix.
    """

    def __init__(self, matrices: Iterable[torch.Tensor], lr: float, weight_decay: float):
        super().__init__(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        self._step_supports_amp_scaling = True

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Update all matrices that have a gradient, unless `found_inf` is 1."""
        if closure is not None or getattr(self, "grad_scale", None) is not None:
            raise ValueError("a closure, or a scale of the gradients, is not supported")
        for group in self.param_groups:
            stacks: dict[tuple, list[torch.Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    stacks[tuple(matrix.shape)].append(matrix)
            for (rows, columns), matrices in stacks.items():
                self._update(group, matrices, 0.2 * max(rows, columns) ** 0.5)

    def _update(self, group: dict[str, Any], matrices: list[torch.Tensor], scale: float) -> None:
        """Update matrices of one shape; `scale` is the RMS of AdamW's updates in units of Muon's (Liu et al. 2025)."""
        states = [self.state[matrix] for matrix in matrices]
        for state, matrix in zip(states, matrices, strict=True):
            if not state:
                state["momentum_buffer"] = torch.zeros_like(matrix)
        momenta = [state["momentum_buffer"] for state in states]
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        shrink: float | torch.Tensor = 1 - group["lr"] * group["weight_decay"]
        found_inf = getattr(self, "found_inf", None)
        if found_inf is not None:  # known to the device alone: what is added is 0, and what multiplies 1
            skip = found_inf > 0
            gradients = list(torch.where(skip, torch.stack(momenta), torch.stack(gradients)).unbind())
            shrink = torch.where(skip, 1.0, shrink)
        torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, momenta, group["momentum"])  # Nesterov
        direction = compiled_if(matrices[0].is_cuda, orthogonalised)
        directions = direction(torch.stack(updates), group["ns_coefficients"], group["ns_steps"], group["eps"])
        if found_inf is not None:
            directions = torch.where(skip, 0.0, directions)
        torch._foreach_mul_(matrices, shrink)
        torch._foreach_add_(matrices, list(directions.to(matrices[0].dtype).unbind()), alpha=-group["lr"] * scale)


def orthogonalised(
    matrices: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float
) -> torch.Tensor:
    """Return bfloat16 `[N, R, C]`: `matrices` `[N, R, C]` with singular values of about 1, by Newton–Schulz steps."""
    a, b, c = coefficients
    x = matrices.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp_min(eps)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
