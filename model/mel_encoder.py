"""The mel branch, a causal variant of Whisper's encoder: a stem and a few light blocks, one vector per frame."""

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.attention import DocumentMask
from whisper_gpt.model.cache import Cache
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.layers import Block, run_blocks

# Without it, bands that are silent in a whole corpus (above the source's Nyquist frequency) would become loud noise.
_SMALLEST_DEVIATION = 0.1


class MelEncoder(nn.Module):
    """Encodes normalised mel frames `[B, T, M]` to `[B, T, mel_width]`; output t depends on frames ≤ t only."""

    mel_mean: torch.Tensor
    mel_std: torch.Tensor

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.heads = config.mel_heads
        self.kernel = config.mel_kernel
        self.stem = nn.Linear(config.mel_kernel * config.mel_bands, config.mel_width)
        self.no_mel = nn.Parameter(torch.zeros(config.mel_width))
        self.blocks = nn.ModuleList(Block(config.mel_width, config.mel_heads) for _ in range(config.mel_layers))
        self.register_buffer("mel_mean", torch.zeros(config.mel_bands))
        self.register_buffer("mel_std", torch.ones(config.mel_bands))

    def set_statistics(self, mean: torch.Tensor, deviation: torch.Tensor) -> None:
        """Set the dataset's mean and standard deviation `[M]` for `normalise`."""
        self.mel_mean.copy_(mean)
        self.mel_std.copy_(deviation.clamp_min(_SMALLEST_DEVIATION))

    def normalise(self, mel: torch.Tensor) -> torch.Tensor:
        """Scale log-mel to about zero mean and unit standard deviation in every band."""
        return (mel - self.mel_mean) / self.mel_std

    def forward(
        self,
        mel: torch.Tensor,
        mel_mask: torch.Tensor,
        cache: Cache | None = None,
        doc_ids: torch.Tensor | None = None,
        attn_mask: DocumentMask | None = None,
    ) -> torch.Tensor:
        """`mel_mask` bool `[B, T]` is False where there is no mel: a learned vector replaces it.

        In packed windows (`doc_ids` `[B, T]` and their `attn_mask`) no frame depends on another segment.
        """
        if cache is None:
            mel = F.pad(mel, (0, 0, self.kernel - 1, 0))  # [B, T + k - 1, M]
        else:
            mel = torch.cat([cache.mel_stem, mel], dim=1)
            cache.mel_stem = mel[:, mel.shape[1] - (self.kernel - 1) :]
        frames = mel.unfold(1, self.kernel, 1)  # [B, T, M, k]
        if doc_ids is not None:
            doc_of = F.pad(doc_ids, (self.kernel - 1, 0), value=-1).unfold(1, self.kernel, 1)  # [B, T, k]
            frames = frames * (doc_of == doc_ids[..., None])[:, :, None]
        x = torch.where(mel_mask[..., None], self.stem(frames.flatten(2)), self.no_mel)  # [B, T, mel_width]
        caches, position = (cache.mel_encoder, cache.position) if cache else (None, 0)
        return run_blocks(self.blocks, self.heads, x, caches, position, attn_mask)
