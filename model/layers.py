"""The pre-norm decoder block: RMSNorm, rotary positions, QK-norm, fused QKV, ReLU², zero-initialised projections."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.cache import LayerCache

_EPS = torch.finfo(torch.float32).eps  # in bfloat16 too, whose own would swallow small inputs


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm without a gain (Zhang and Sennrich 2019), in the type of `x`; computed in float32, backward too."""
    return RMSNorm.apply(x)


class RMSNorm(torch.autograd.Function):
    """y = r·x with r = (mean(x²) + ε)^−½ in few passes. Backward: r·(g − y·mean(g·y)).

    Not torch's own: that has no fused form on the CPU, where it takes 4 times as long, and under autocast it returns
    float32 on a GPU and bfloat16 on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square() / x.shape[-1]
        r = torch.rsqrt(square + _EPS)
        y = (x * r).type_as(x)
        ctx.save_for_backward(y, r)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gradient,), (y, r) = gradients, ctx.saved_tensors
        g, y = gradient.float(), y.float()
        # Not vecdot, which autocast runs in bfloat16 (compiled, the backward has the forward's autocast).
        along = (g * y).mean(dim=-1, keepdim=True)
        return torch.addcmul(g, y, along, value=-1).mul_(r).type_as(gradient)


def rotation(begin: int, end: int, head_width: int, device: torch.device) -> torch.Tensor:
    """RoPE's turns (Su et al. 2021, base 10,000) for those positions, as complex numbers `[end - begin, hd / 2]`."""
    frequencies = 10_000.0 ** (-torch.arange(0, head_width, 2, device=device) / head_width)
    angles = torch.arange(begin, end, device=device)[:, None] * frequencies
    return torch.polar(torch.ones_like(angles), angles)


def rotate(x: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Turn the pairs (2i, 2i + 1) of `x` `[B, H, T, hd]` by their position's angles: one complex product."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * by).flatten(-2).type_as(x)


class ReLUSquared(torch.autograd.Function):
    """y = max(x, 0)² (Primer, So et al. 2021); backward 2·max(x, 0)·g in two passes, not the four of autograd."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        positive = F.relu(x)
        ctx.save_for_backward(positive)
        return positive * positive

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        (gradient,), (positive,) = gradients, ctx.saved_tensors
        return (positive * gradient).mul_(2)


class Attention(nn.Module):
    """Causal self-attention over `[B, T, D]`, with or without a cache."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)

    def forward(
        self,
        x: torch.Tensor,
        by: torch.Tensor,
        cache: LayerCache | None = None,
        position: int = 0,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        batch, frames, width = x.shape
        q, k, v = self.qkv(x).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each [B, H, T, hd]
        q, k = rotate(norm(q), by), rotate(norm(k), by)
        if cache is not None:
            k, v = cache.update(position, k, v)
        # Into a cache several inputs come at its start only (a prompt), then one at a time, which may see all keys.
        if frames > 1 and position > 0:
            raise ValueError(f"{frames} inputs at position {position}: only one may follow what a cache holds")
        causal = visible is None and frames > 1
        y = F.scaled_dot_product_attention(q, k, v, visible, is_causal=causal)  # [B, H, T, hd]
        return self.project(y.transpose(1, 2).reshape(batch, frames, width))


class MLP(nn.Module):
    """Two layers with ReLU² between."""

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.project = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(ReLUSquared.apply(self.expand(x)))


class Block(nn.Module):
    """Attention, then MLP, each on the normalised stream and added to it."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.mlp = MLP(width)

    def forward(
        self,
        x: torch.Tensor,
        by: torch.Tensor,
        cache: LayerCache | None = None,
        position: int = 0,
        visible: torch.Tensor | None = None,
    ) -> torch.Tensor:
        x = x + self.attention(norm(x), by, cache, position, visible)
        return x + self.mlp(norm(x))


def run_blocks(
    blocks: nn.ModuleList,
    heads: int,
    x: torch.Tensor,
    caches: list[LayerCache] | None,
    position: int,
    visible: torch.Tensor | None = None,
) -> torch.Tensor:
    """All `blocks` over `x` `[B, T, D]`, whose first frame stands at `position` → `[B, T, D]`, normalised.

    `visible` bool `[B, 1, T, T]`, where given, says which frames each frame sees; else all up to it.
    """
    by = rotation(position, position + x.shape[1], x.shape[2] // heads, x.device)
    for index, block in enumerate(blocks):
        x = block(x, by, caches[index] if caches else None, position, visible)
    return norm(x)


def within_segments(segments: torch.Tensor) -> torch.Tensor:
    """What each frame of packed windows sees: those of its own segment up to it; `[B, T]` → bool `[B, 1, T, T]`."""
    same = segments[:, :, None] == segments[:, None, :]
    return torch.tril(same)[:, None]


def initialise(module: nn.Module) -> None:
    """Normal weights of variance 1/fan-in; projections that end a residual branch start at zero."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            if name.endswith(".project"):
                nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)  # normalised when read: small ones turn sooner
