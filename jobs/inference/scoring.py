"""Scoring a model over a stream of windows: nats, hits and tokens, added up in double precision."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.ngram import NGram, log_probabilities
from whisper_gpt.pipeline.loading.stream import Batch


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


@dataclass(frozen=True)
class WindowScore:
    """The tokens of one window of a sample: nats float64 `[T]`, and whether each was the likeliest, bool `[T]`."""

    key: str
    nats: np.ndarray
    hits: np.ndarray


def score_model(model: HybridLM, windows: Iterable[Batch]) -> Score:
    """Teacher-forced score of `model` on codebook 0 of `windows`; leaves the model in the mode it was in."""
    return add_up(model_scores(model, windows))


@torch.no_grad()
def model_scores(model: HybridLM, windows: Iterable[Batch]) -> Iterator[WindowScore]:
    """Teacher-forced scores of `model` on codebook 0 of `windows`, which are not packed."""
    training = model.training
    model.eval()
    try:
        for batch in windows:
            targets = batch.codes[:, 0]
            logits = token_logits(model, batch.codes, batch.mel).float()
            nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
            hits = logits.argmax(dim=-1) == targets
            columns = (nats.double().cpu().numpy(), hits.cpu().numpy(), batch.mask.cpu().numpy())
            for (key,), own_nats, own_hits, mask in zip(batch.keys, *columns, strict=True):
                yield WindowScore(key, own_nats[mask], own_hits[mask])
    finally:
        model.train(training)


def token_logits(model: HybridLM, codes: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
    """What `model` predicts of every frame from those before it, `[B, T, V]`, of `codes` `[B, K, T]` and raw log-mel
    `[B, T, M]`, which a token-only model does not look at."""
    return model(codes, model.mel_encoder.normalise(mel) if model.config.hybrid else None).logits


def ngram_scores(ngram: NGram, windows: Iterable[Batch]) -> Iterator[WindowScore]:
    """Scores of an n-gram model on codebook 0 of `windows`, each from an empty history as the neural models are."""
    for key, tokens in sequences(windows):
        logs = log_probabilities(ngram, tokens)
        yield WindowScore(key, -logs[np.arange(len(tokens)), tokens], logs.argmax(axis=1) == tokens)


def sequences(windows: Iterable[Batch]) -> Iterator[tuple[str, np.ndarray]]:
    """Key and codebook 0 of each window of one sample, int64 `[T]`, without its padding."""
    for batch in windows:
        for (key,), codes, mask in zip(batch.keys, batch.codes[:, 0].numpy(), batch.mask.numpy(), strict=True):
            yield key, codes[mask]


def add_up(scores: Iterable[WindowScore]) -> Score:
    """The sums over all windows."""
    nats, hits, tokens = 0.0, 0, 0
    for score in scores:
        nats += float(score.nats.sum())
        hits += int(score.hits.sum())
        tokens += len(score.nats)
    return Score(nats, hits, tokens)
