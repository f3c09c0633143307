"""The depth decoder: the finer codes of one frame, coarse to fine, from the frame's hidden state.

RQ-Transformer (Lee et al. 2022, arXiv 2203.01941), as in Moshi (Défossez et al. 2024, arXiv 2410.00037, section 3.4).
Unlike a delay pattern it finishes a frame before time moves on, so a frame's audio, and with it its mel, is known when
the next frame is predicted.
"""

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.cache import empty_layers
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.layers import Block, initialise, norm, run_blocks
from whisper_gpt.model.sampling import Sampling, sample


class DepthDecoder(nn.Module):
    """Models p(c_k | x, c_0 … c_{k−1}) for codebooks k = 1 … K − 1 of a frame with hidden state x."""

    offsets: torch.Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.finer = config.output_codebooks - 1
        self.heads = config.depth_heads
        width = config.depth_width
        self.frame = nn.Linear(config.width, self.finer * width, bias=False)  # its own projection of x per codebook
        self.embed = nn.Embedding(self.finer * config.vocab, width)  # of codes 0 … K − 2
        self.blocks = nn.ModuleList(Block(width, self.heads) for _ in range(config.depth_layers))
        self.head = nn.Parameter(torch.empty(self.finer, config.vocab, width))
        self.int8_heads: nn.ModuleList | None = None  # the rounded heads of a quantised model, for `draw`
        self.register_buffer("offsets", config.vocab * torch.arange(self.finer), persistent=False)
        initialise(self)
        nn.init.normal_(self.head, std=0.1 * width**-0.5)  # predictions start almost uniform

    def forward(self, hidden: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return the logits `[N, K − 1, V]` of codes 1 … K − 1 of N frames.

        `hidden` is float `[N, D]`, `codes` int64 `[N, K]` (the last is not read). The logits of code k depend on codes
        < k only.
        """
        x = norm(self.embed(codes[:, : self.finer] + self.offsets)) + self._projected(hidden)
        x = run_blocks(self.blocks, self.heads, x, None, 0)
        return torch.einsum("nkd,kvd->nkv", x, self.head)

    def nats(self, hidden: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return the NLL `[N, K − 1]` of codes 1 … K − 1, float32, for `hidden` `[N, D]` and `codes` `[N, K]`."""
        logits = self(hidden, codes).float()
        return F.cross_entropy(logits.flatten(0, 1), codes[:, 1:].flatten(), reduction="none").view(-1, self.finer)

    @torch.no_grad()
    def draw(self, hidden: torch.Tensor, coarsest: torch.Tensor, how: Sampling, noise: torch.Tensor) -> torch.Tensor:
        """Sample codes 1 … K − 1 of N frames; return all codes, int64 `[N, K]`.

        `hidden` is float `[N, D]`, `coarsest` code 0, int64 `[N]`, and `noise` that of `sample`, `[N, K − 1, V]`.
        """
        frames, codes = self._projected(hidden), [coarsest]
        head_width = frames.shape[2] // self.heads
        caches = empty_layers(len(self.blocks), (len(hidden), self.heads, self.finer, head_width), hidden.device)
        for k in range(self.finer):
            x = norm(self.embed(codes[k] + self.offsets[k])) + frames[:, k]
            x = run_blocks(self.blocks, self.heads, x[:, None], caches, k)[:, 0]
            codes.append(sample(self._logits(x, k), how, noise[:, k]))
        return torch.stack(codes, dim=1)

    def _logits(self, x: torch.Tensor, k: int) -> torch.Tensor:
        """Return the logits `[N, V]` of code k + 1: one head, as reading all of them would take most of the time."""
        return F.linear(x, self.head[k]) if self.int8_heads is None else self.int8_heads[k](x)

    def _projected(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the projections `[N, K − 1, W]` of `hidden` `[N, D]`, one per finer codebook, with an RMS of 1."""
        return norm(self.frame(hidden).unflatten(1, (self.finer, -1)))
