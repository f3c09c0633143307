"""The rival of `bench train`: a plain token-only loop in the style of nanoGPT.

The same dimensions, attention, optimizer and batch as gpt-4m; no manifests, masks, checkpoints or logging.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.jobs.training.distributed import Precision, autocast
from whisper_gpt.model.config import ModelConfig


class PlainBlock(nn.Module):
    """LayerNorm, causal attention, LayerNorm, GELU MLP, over `[B, T, D]`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.expand, self.shrink = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, frames, width = x.shape
        q, k, v = self.qkv(self.norm_1(x)).view(batch, frames, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.transpose(1, 2).reshape(batch, frames, width))
        return x + self.shrink(F.gelu(self.expand(self.norm_2(x))))


class PlainGPT(nn.Module):
    """Maps tokens `[B, T]` to logits `[B, T, V]`: learned positions, blocks, an untied head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.tokens = nn.Embedding(config.vocab, config.width)
        self.positions = nn.Embedding(config.context, config.width)
        self.blocks = nn.Sequential(*(PlainBlock(config.width, config.heads) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width, bias=False)
        self.head = nn.Linear(config.width, config.vocab, bias=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        positions = self.positions(torch.arange(tokens.shape[1], device=tokens.device))
        return self.head(self.norm(self.blocks(self.tokens(tokens) + positions)))


def plain_loop(
    config: ModelConfig,
    tokens: np.ndarray,
    batch: int,
    precision: Precision,
    device: torch.device,
    compiled: bool = False,
) -> Callable[[], float]:
    """Return a function that takes one step on random crops of `tokens` `[N]` and returns its loss."""
    model = PlainGPT(config).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    if compiled:
        model.compile()
    starts = np.random.default_rng(0)

    def step() -> float:
        begins = starts.integers(0, len(tokens) - config.context - 1, batch)
        x = torch.from_numpy(np.stack([tokens[b : b + config.context] for b in begins]).astype(np.int64)).to(device)
        y = torch.from_numpy(np.stack([tokens[b + 1 : b + 1 + config.context] for b in begins]).astype(np.int64))
        with autocast(precision, device):
            loss = F.cross_entropy(model(x).flatten(0, 1), y.to(device).flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step
