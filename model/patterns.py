"""Token-only rivals of the depth decoder: one decoder predicts all codes, which a pattern spreads over its positions.

`flat` gives each code a position of its own; `delay` shifts codebook k by k positions, so that a position predicts
codes of K different frames. Both are from MusicGen (Copet et al. 2023, arXiv 2306.05284, section 2.2).
"""

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.attention import DocumentMask
from whisper_gpt.model.checkpoint import Pretrained
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.layers import Block, initialise, norm, run_blocks


class PatternLM(Pretrained):
    """Models p(c_k of frame t | the codes that `config.pattern` puts before it). Both patterns give a likelihood."""

    offsets: torch.Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        n_codebooks, vocab, width = config.output_codebooks, config.vocab, config.width
        self.embed = nn.Embedding(n_codebooks * vocab + 1, width)
        self.blocks = nn.ModuleList(Block(width, config.heads) for _ in range(config.layers))
        self.head = nn.Parameter(torch.empty(n_codebooks, vocab, width))
        self.register_buffer("offsets", vocab * torch.arange(n_codebooks)[:, None], persistent=False)
        initialise(self)
        nn.init.normal_(self.head, std=0.1 * width**-0.5)  # predictions start almost uniform

    @property
    def begin_token(self) -> int:
        """The embedding row (the last one) of codes before a piece's first frame."""
        return self.embed.num_embeddings - 1

    def forward(
        self, codes: torch.Tensor, mask: torch.Tensor, doc_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits `[B, T, K, V]` of `codes` int64 `[B, K, T]`, and which of them are predictions, bool
        `[B, T, K]`.

        `mask` bool `[B, T]` is False in padding, which is not read. `doc_ids` int64 `[B, T]` numbers the pieces of
        packed windows: each piece is predicted independently. With the delay pattern, the last finer codes of a piece
        would be predicted within the next one, and are not.
        """
        rows = (codes[:, : self.config.output_codebooks] + self.offsets).masked_fill(~mask[:, None], self.begin_token)
        hidden, predicted = (self._flat if self.config.pattern == "flat" else self._delayed)(rows, doc_ids)
        return torch.einsum("btkd,kvd->btkv", hidden, self.head), predicted

    def _flat(self, rows: torch.Tensor, doc_ids: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states `[B, T, K, D]` for embedding rows `[B, K, T]`: frame by frame, coarse to fine."""
        n_codebooks = rows.shape[1]
        docs = None if doc_ids is None else doc_ids.repeat_interleave(n_codebooks, dim=1)  # [B, P], with P = T · K
        previous = F.pad(rows.transpose(1, 2).flatten(1), (1, -1), value=self.begin_token)  # [B, P]
        if docs is not None:
            previous[:, 1:].masked_fill_(docs[:, 1:] != docs[:, :-1], self.begin_token)
        x = self._decode(norm(self.embed(previous)), docs)
        return x.unflatten(1, (-1, n_codebooks)), torch.ones_like(rows.transpose(1, 2), dtype=torch.bool)

    def _delayed(self, rows: torch.Tensor, doc_ids: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return hidden states `[B, T, K, D]` for embedding rows `[B, K, T]`: position t + k predicts code k of frame
        t, from codes j of the frames before t + k − j."""
        n_codebooks, frames = rows.shape[1:]
        of_frame = torch.zeros_like(rows[:, 0]) if doc_ids is None else doc_ids  # [B, T]
        docs = torch.cat([of_frame, of_frame[:, -1:].expand(-1, n_codebooks - 1)], dim=1)  # [B, P], P = T + K − 1
        inputs = []
        for k in range(n_codebooks):
            shift = (k + 1, n_codebooks - 2 - k)  # position p reads frame p − 1 − k
            same_doc = F.pad(of_frame, shift, value=-1) == docs
            inputs.append(torch.where(same_doc, F.pad(rows[:, k], shift), self.begin_token))
        embedded = norm(self.embed(torch.stack(inputs, dim=1)).sum(dim=1))
        x = self._decode(embedded, None if doc_ids is None else docs)
        hidden = torch.stack([x[:, k : k + frames] for k in range(n_codebooks)], dim=2)
        predicted_in = torch.stack([docs[:, k : k + frames] for k in range(n_codebooks)], dim=2)  # [B, T, K]
        return hidden, predicted_in == of_frame[..., None]

    def _decode(self, x: torch.Tensor, docs: torch.Tensor | None) -> torch.Tensor:
        """Apply the decoder to `[B, P, D]`; with `docs` `[B, P]` to each piece on its own."""
        attn_mask = None if docs is None else DocumentMask(docs)
        return run_blocks(self.blocks, self.config.heads, x, None, 0, attn_mask)
