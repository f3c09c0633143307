"""Residual vector quantization with given codebooks: from latents to codes and back."""

from dataclasses import dataclass

import numpy as np
import torch

# Scores of vectors against codewords that are computed at once: 64 MB.
_MAX_SCORES = 2**24


@dataclass(frozen=True)
class ResidualQuantizer:
    """Codebooks `[size, D]`, each for the residual of those before it, and their `offsets` `[size]`: −|codeword|²/2."""

    codebooks: tuple[torch.Tensor, ...]
    offsets: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, codebooks: list[torch.Tensor]) -> "ResidualQuantizer":
        return cls(tuple(codebooks), tuple(codebook.square().sum(1).mul_(-0.5) for codebook in codebooks))

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Quantize latents `[B, T, D]` to codes int16 `[B, K, T]`; greedy, so code k does not depend on later ones.

        The codeword e nearest to x has the largest x·e − |e|²/2; the `encodec` package adds |x|² to that, which takes
        three more passes.
        """
        residual = latents.flatten(0, 1)
        codes = torch.empty(len(self.codebooks), len(residual), dtype=torch.int16, device=latents.device)
        for k, (codebook, offset) in enumerate(zip(self.codebooks, self.offsets, strict=True)):
            chosen = nearest(residual, codebook, offset)
            residual = residual - codebook[chosen]
            codes[k] = chosen
        return codes.unflatten(1, latents.shape[:2]).transpose(0, 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return latents `[B, T, D]` of codes `[B, K', T]`. Raises `ValueError` if K' exceeds the codebooks."""
        if codes.shape[1] > len(self.codebooks):
            raise ValueError(f"codes of {codes.shape[1]} codebooks, but there are {len(self.codebooks)}")
        chosen = codes.long().unbind(1)
        latents = self.codebooks[0][chosen[0]]
        for codebook, indices in zip(self.codebooks[1:], chosen[1:], strict=False):
            latents = latents + codebook[indices]
        return latents


def nearest(vectors: torch.Tensor, codebook: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Return the index `[n]` of the codeword in `[size, D]` nearest to each of `[n, D]`; `offset` is −|codeword|²/2."""
    rows = max(1, _MAX_SCORES // len(codebook))
    return torch.cat([torch.addmm(offset, part, codebook.T).argmax(1) for part in vectors.split(rows)])


def code_counts(codes: np.ndarray, size: int) -> np.ndarray:
    """Count how often each codeword occurs in `codes` `[K, T]`; return int64 `[K, size]`."""
    return np.stack([np.bincount(codes_of_codebook, minlength=size) for codes_of_codebook in codes])
