"""Scoring a model over a stream of windows: nats, hits and tokens, added up in double precision."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from model.hybrid import HybridLM
from model.ngram import NGram
from model.ngram import score as ngram_logits
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
        return model(batch.codes, mel).logits

    try:
        return _add_up((batch, logits(batch)) for batch in windows)
    finally:
        model.train(training)


def score_ngram(ngram: NGram, order: int, windows: Iterable[Batch]) -> Score:
    """Score of the unigram (`order` 1) or bigram (2) floor."""
    return _add_up((batch, ngram_logits(ngram, batch.codes[:, 0], order)) for batch in windows)


def _add_up(scored: Iterable[tuple[Batch, torch.Tensor]]) -> Score:
    nats, hits, tokens = 0.0, 0, 0
    for batch, logits in scored:
        chosen, targets = logits[batch.mask], batch.codes[:, 0][batch.mask]
        nats += float(F.cross_entropy(chosen, targets, reduction="none").double().sum())
        hits += int((chosen.argmax(dim=-1) == targets).sum())
        tokens += len(targets)
    return Score(nats, hits, tokens)
