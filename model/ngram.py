"""The floors: unigram and bigram models of the tokens, with nothing learnt but counts."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NGram:
    """Log-probabilities of the next token: `unigram` `[V]`, `bigram` `[V, V]` (row: the token before)."""

    unigram: torch.Tensor
    bigram: torch.Tensor


def count_pairs(windows: Iterable[tuple[torch.Tensor, torch.Tensor]], vocab: int) -> torch.Tensor:
    """Counts of (token before, token) over windows of `codes` `[B, T]` with `mask` `[B, T]` → float64 `[V + 1, V]`.

    The last row counts the tokens that begin a window.
    """
    counts = torch.zeros((vocab + 1) * vocab, dtype=torch.float64)
    for codes, mask in windows:
        before = torch.nn.functional.pad(codes[:, :-1], (1, 0), value=vocab)
        pairs = (before * vocab + codes)[mask]
        counts += torch.bincount(pairs, minlength=len(counts))
    return counts.view(vocab + 1, vocab)


def fit(counts: torch.Tensor, held_out: torch.Tensor) -> NGram:
    """Fit to pair `counts` `[V + 1, V]`: add-one unigram, bigram with the unigram as its Dirichlet prior.

    The prior's weight is the best of a small grid on the pairs `held_out` `[V + 1, V]` (MacKay and Peto 1995).
    """
    vocab = counts.shape[1]
    unigram = counts.sum(dim=0) + 1
    unigram = unigram / unigram.sum()
    pairs = counts[:vocab]

    def bigram(weight: float) -> torch.Tensor:
        return ((pairs + weight * unigram) / (pairs.sum(dim=1, keepdim=True) + weight)).log()

    weights = [4.0**power for power in range(-2, 9)]
    best = max(weights, key=lambda weight: float((held_out[:vocab] * bigram(weight)).sum()))
    return NGram(unigram.log(), bigram(best))


def score(model: NGram, codes: torch.Tensor, order: int) -> torch.Tensor:
    """Log-probabilities `[B, T, V]` for every token of `codes` `[B, T]`; a window's first has the unigram's."""
    uni = model.unigram.expand(*codes.shape, -1)
    if order == 1:
        return uni
    return torch.cat([uni[:, :1], model.bigram[codes[:, :-1]]], dim=1)
