"""Scoring a model over a stream of windows: nats, hits and tokens, added up in double precision."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from model.hybrid import HybridLM
from model.ngram import NGram, log_probabilities
from pipeline.stream import Batch


@dataclass(frozen=True)
class Score:
    """Sums over `tokens` predicted tokens."""

    nats: float
    hits: int
    tokens: int

    @property
    def nll(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def accuracy(self) -> float:
        """Share of tokens that were the likeliest."""
        return self.hits / self.tokens


@torch.no_grad()
def score_model(model: HybridLM, windows: Iterable[Batch]) -> Score:
    """Teacher-forced score of `model` on codebook 0 of `windows`; leaves the model in the mode it was in."""
    training = model.training
    model.eval()

    def logits(batch: Batch) -> torch.Tensor:
        mel = model.mel_encoder.normalise(batch.mel) if model.config.hybrid else None
        return model(batch.codes[:, 0], mel).logits

    try:
        return _add_up((logits(batch)[batch.mask], batch.codes[:, 0][batch.mask]) for batch in windows)
    finally:
        model.train(training)


def score_ngram(ngram: NGram, windows: Iterable[Batch]) -> Score:
    """Score of an n-gram model on codebook 0 of `windows`, each from an empty history as the neural models are."""
    return _add_up(
        (torch.from_numpy(log_probabilities(ngram, tokens)), torch.from_numpy(tokens)) for tokens in sequences(windows)
    )


def sequences(windows: Iterable[Batch]) -> Iterator[np.ndarray]:
    """Codebook 0 of each window, int64 `[T]`, without its padding."""
    for batch in windows:
        for codes, mask in zip(batch.codes[:, 0].numpy(), batch.mask.numpy(), strict=True):
            yield codes[mask]


def _add_up(scored: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Score:
    """Add up pairs of logits `[N, V]` and targets `[N]`."""
    nats, hits, tokens = 0.0, 0, 0
    for logits, targets in scored:
        nats += float(F.cross_entropy(logits, targets, reduction="none").double().sum())
        hits += int((logits.argmax(dim=-1) == targets).sum())
        tokens += len(targets)
    return Score(nats, hits, tokens)
