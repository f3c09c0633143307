"""Residual vector quantization with given codebooks: which codewords, and what they add up to."""

from dataclasses import dataclass

import numpy as np
import torch

# Of vectors against codewords at a time: 64 MB.
_MOST_SCORES = 2**24


@dataclass(frozen=True)
class ResidualQuantizer:
    """Codebooks `[size, D]`, each for what the ones before it leave over, and −|codeword|²/2 of each `[size]`."""

    codebooks: tuple[torch.Tensor, ...]
    offsets: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, codebooks: list[torch.Tensor]) -> "ResidualQuantizer":
        return cls(tuple(codebooks), tuple(book.square().sum(1).mul_(-0.5) for book in codebooks))

    def encode(self, latents: torch.Tensor) -> torch.Tensor:
        """Codes int16 `[B, K, T]` of latents `[B, T, D]`: greedy, so the first codes do not depend on how many follow.

        The nearest codeword e of x has the largest x·e − |e|²/2; the package adds |x|² to that, in three more passes.
        """
        residual = latents.flatten(0, 1)
        codes = torch.empty(len(self.codebooks), len(residual), dtype=torch.int16, device=latents.device)
        for k, (book, offset) in enumerate(zip(self.codebooks, self.offsets, strict=True)):
            chosen = nearest(residual, book, offset)
            residual = residual - book[chosen]
            codes[k] = chosen
        return codes.unflatten(1, latents.shape[:2]).transpose(0, 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Latents `[B, T, D]` of codes `[B, K', T]`. Raises `ValueError` for more of them than there are codebooks."""
        if codes.shape[1] > len(self.codebooks):
            raise ValueError(f"codes of {codes.shape[1]} codebooks, but there are {len(self.codebooks)}")
        chosen = codes.long().unbind(1)
        latents = self.codebooks[0][chosen[0]]
        for book, indices in zip(self.codebooks[1:], chosen[1:], strict=False):
            latents = latents + book[indices]
        return latents


def nearest(vectors: torch.Tensor, codebook: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
    """Which codeword of `[size, D]` is nearest to each of `[n, D]` → `[n]`; `offset` is −|codeword|²/2."""
    rows = max(1, _MOST_SCORES // len(codebook))
    return torch.cat([torch.addmm(offset, some, codebook.T).argmax(1) for some in vectors.split(rows)])


def code_counts(codes: np.ndarray, size: int) -> np.ndarray:
    """How often each codeword occurs in `codes` `[K, T]` → int64 `[K, size]`."""
    return np.stack([np.bincount(book, minlength=size) for book in codes])
