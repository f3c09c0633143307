"""The pre-norm decoder block: RMSNorm, rotary positions, QK-norm, fused QKV, ReLU², zero-initialised projections."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.attention import DocumentMask, attend
from whisper_gpt.model.cache import LayerCache

_EPS = torch.finfo(torch.float32).eps  # for bfloat16 too: its own epsilon would dominate small inputs


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm without a gain (Zhang and Sennrich 2019), in the dtype of `x`; forward and backward run in float32."""
    return RMSNorm.apply(x)


class RMSNorm(torch.autograd.Function):
    """y = r·x with r = (mean(x²) + ε)^−½ in few passes. Backward: r·(g − y·mean(g·y)).

    Not torch's RMSNorm: it is not fused on the CPU, where it takes 4 times as long, and under autocast it returns
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


def rope_table(begin: int, end: int, head_width: int, device: torch.device) -> torch.Tensor:
    """Return RoPE factors (Su et al. 2021, base 10,000) for positions `begin` to `end` - 1: cosines and sines,
    `[n, hd / 2, 2]`."""
    frequencies = 10_000.0 ** (-torch.arange(0, head_width, 2, device=device) / head_width)
    angles = torch.arange(begin, end, device=device)[:, None] * frequencies
    if torch.compiler.is_compiling():
        return torch.stack((angles.cos(), angles.sin()), dim=-1)
    return torch.view_as_real(torch.polar(torch.ones_like(angles), angles))


def apply_rope(x: torch.Tensor, rope: torch.Tensor) -> torch.Tensor:
    """Rotate the pairs (2i, 2i + 1) of `x` `[B, H, T, hd]` by the angles of their position.

    That is one complex product, an eighth of the time of the same product in real numbers. Inductor does not generate
    code for complex numbers, but fuses the real ones.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        (a, b), (cos, sin) = pairs.unbind(-1), rope.unbind(-1)
        rotated = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    else:
        rotated = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rope))
    return rotated.flatten(-2).type_as(x)


class ReLUSquared(torch.autograd.Function):
    """y = max(x, 0)² (Primer, So et al. 2021); backward 2·max(x, 0)·g in two passes; autograd would take four."""

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
        rope: torch.Tensor,
        cache: LayerCache | None = None,
        position: int = 0,
        attn_mask: DocumentMask | None = None,
    ) -> torch.Tensor:
        batch, frames, width = x.shape
        q, k, v = self.qkv(x).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # each [B, H, T, hd]
        q, k = apply_rope(norm(q), rope), apply_rope(norm(k), rope)
        if cache is not None:
            k, v = cache.update(position, k, v)
        # Only an empty cache takes several inputs (a prompt). Then they come one at a time: no mask is needed.
        if frames > 1 and position > 0:
            raise ValueError(f"{frames} inputs at position {position}: a cache that is not empty takes one at a time")
        y = attend(q, k, v, attn_mask)  # [B, H, T, hd]
        return self.project(y.transpose(1, 2).reshape(batch, frames, width))


class MLP(nn.Module):
    """Two linear layers with ReLU² between them."""

    def __init__(self, width: int):
        super().__init__()
        self.expand = nn.Linear(width, 4 * width, bias=False)
        self.project = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.project(ReLUSquared.apply(self.expand(x)))


class Block(nn.Module):
    """Pre-norm residual block: attention, then MLP."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attention = Attention(width, heads)
        self.mlp = MLP(width)

    def forward(
        self,
        x: torch.Tensor,
        rope: torch.Tensor,
        cache: LayerCache | None = None,
        position: int = 0,
        attn_mask: DocumentMask | None = None,
    ) -> torch.Tensor:
        x = x + self.attention(norm(x), rope, cache, position, attn_mask)
        return x + self.mlp(norm(x))


def run_blocks(
    blocks: nn.ModuleList,
    heads: int,
    x: torch.Tensor,
    caches: list[LayerCache] | None,
    position: int,
    attn_mask: DocumentMask | None = None,
) -> torch.Tensor:
    """Apply all `blocks` to `x` `[B, T, D]`, whose first frame is at `position`; return `[B, T, D]`, normalised.

    Attention is causal and, with `attn_mask`, stays within the pieces of packed windows.
    """
    rope = rope_table(position, position + x.shape[1], x.shape[2] // heads, x.device)
    for index, block in enumerate(blocks):
        x = block(x, rope, caches[index] if caches else None, position, attn_mask)
    return norm(x)


def initialise(module: nn.Module) -> None:
    """Initialise weights normally with variance 1/fan-in; projections that end a residual branch start at zero."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5)
            if name.endswith(".project"):
                nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=0.02)  # normalised on lookup: a small std speeds up learning
