"""The state of a generation, passed explicitly: attention keys and values, and the last frames of the mel stem."""

from dataclasses import dataclass

import torch

from whisper_gpt.model.config import ModelConfig


@dataclass
class LayerCache:
    """Keys and values of one attention layer, `[B, H, capacity, head width]`, filled up to the current position."""

    keys: torch.Tensor
    values: torch.Tensor

    def update(self, position: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write `k`, `v` `[B, H, n, hd]` at `position`; return the keys and values of all positions so far."""
        end = position + k.shape[2]
        self.keys[:, :, position:end] = k
        self.values[:, :, position:end] = v
        return self.keys[:, :, :end], self.values[:, :, :end]


@dataclass
class Cache:
    """The state of a generation. `position` is the number of inputs processed; the cache is full at `capacity`."""

    decoder: list[LayerCache]
    mel_encoder: list[LayerCache]
    mel_stem: torch.Tensor  # [B, kernel - 1, M], normalised
    capacity: int
    position: int = 0


def empty_layers(count: int, shape: tuple[int, int, int, int], device: torch.device | str) -> list[LayerCache]:
    """Return the empty caches of `count` layers, each of `shape` `[B, H, capacity, head width]`."""
    return [LayerCache(torch.zeros(shape, device=device), torch.zeros(shape, device=device)) for _ in range(count)]


def empty_cache(config: ModelConfig, batch: int, device: torch.device | str = "cpu") -> Cache:
    """Return an empty cache for `config.context` inputs."""

    def layers(count: int, heads: int, width: int) -> list[LayerCache]:
        return empty_layers(count, (batch, heads, config.context, width // heads), device)

    return Cache(
        decoder=layers(config.layers, config.heads, config.width),
        mel_encoder=layers(config.mel_layers, config.mel_heads, config.mel_width) if config.hybrid else [],
        mel_stem=torch.zeros(batch, config.mel_kernel - 1, config.mel_bands, device=device),
        capacity=config.context,
    )
