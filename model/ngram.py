"""The floors: unigram and bigram models of the tokens, with nothing learnt but counts."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class NGram:
    """Log-probabilities of the next token: `unigram` `[V]`, `bigram` `[V, V]` (row: the token before)."""

    unigram: torch.Tensor
    bigram: torch.Tensor


def count_pairs(codes: torch.Tensor, mask: torch.Tensor, vocab: int) -> torch.Tensor:
    """Counts of (token before, token) in windows `codes` `[B, T]` where `mask` `[B, T]` → float64 `[V + 1, V]`.

    The last row counts the tokens that begin a window.
    """
    before = torch.nn.functional.pad(codes[:, :-1], (1, 0), value=vocab)
    pairs = (before * vocab + codes)[mask]
    return torch.bincount(pairs, minlength=(vocab + 1) * vocab).double().view(vocab + 1, vocab)


def fit(counted: torch.Tensor, held_out: torch.Tensor) -> NGram:
    """Fit to pair counts `[V + 1, V]`: add-one unigram, bigram with the unigram as its Dirichlet prior.

    The prior's weight is the one of a small grid under which `held_out` is likeliest after `counted`; then both are
    counted (MacKay and Peto 1995).
    """

    def smoothed(counts: torch.Tensor, weight: float) -> NGram:
        unigram = counts.sum(dim=0) + 1
        unigram = unigram / unigram.sum()
        pairs = counts[:-1]
        bigram = (pairs + weight * unigram) / (pairs.sum(dim=1, keepdim=True) + weight)
        return NGram(unigram.log(), bigram.log())

    weights = [4.0**power for power in range(-2, 9)]
    best = max(weights, key=lambda weight: float((held_out[:-1] * smoothed(counted, weight).bigram).sum()))
    return smoothed(counted + held_out, best)


def score(model: NGram, codes: torch.Tensor, order: int) -> torch.Tensor:
    """Log-probabilities `[B, T, V]` for every token of `codes` `[B, T]`; a window's first has the unigram's."""
    uni = model.unigram.expand(*codes.shape, -1)
    if order == 1:
        return uni
    return torch.cat([uni[:, :1], model.bigram[codes[:, :-1]]], dim=1)
