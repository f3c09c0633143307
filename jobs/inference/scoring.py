"""Score a model over a stream of windows: NLL and top-1 accuracy, summed in double precision."""

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
    """Sums over `tokens` predicted tokens: NLL in nats, and correct top-1 predictions."""

    nats: float
    correct: int
    tokens: int

    @property
    def nll(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy."""
        return self.correct / self.tokens


@dataclass(frozen=True)
class WindowScore:
    """Scores of the tokens in one window of a sample: nats float64 `[T]`, and top-1 correctness bool `[T]`."""

    key: str
    nats: np.ndarray
    correct: np.ndarray


def score_model(model: HybridLM, windows: Iterable[Batch]) -> Score:
    """Return the teacher-forced score of `model` on codebook 0 of `windows`; keeps the model's training mode."""
    return add_up(model_scores(model, windows))


@torch.no_grad()
def model_scores(model: HybridLM, windows: Iterable[Batch]) -> Iterator[WindowScore]:
    """Yield teacher-forced scores of `model` on codebook 0 of `windows`, which are not packed."""
    training = model.training
    model.eval()
    try:
        for batch in windows:
            targets = batch.codes[:, 0]
            logits = token_logits(model, batch.codes, batch.mel).float()
            nats = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(targets)
            correct = logits.argmax(dim=-1) == targets
            columns = (nats.double().cpu().numpy(), correct.cpu().numpy(), batch.mask.cpu().numpy())
            for (key,), row_nats, row_correct, mask in zip(batch.keys, *columns, strict=True):
                yield WindowScore(key, row_nats[mask], row_correct[mask])
    finally:
        model.train(training)


def token_logits(model: HybridLM, codes: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
    """Return the logits `[B, T, V]` of every frame given those before it, from `codes` `[B, K, T]` and raw log-mel
    `[B, T, M]`, which a token-only model ignores."""
    return model(codes, model.mel_encoder.normalise(mel) if model.config.hybrid else None).logits


def ngram_scores(ngram: NGram, windows: Iterable[Batch]) -> Iterator[WindowScore]:
    """Yield scores of an n-gram model on codebook 0 of `windows`, each from an empty history as for neural models."""
    for key, tokens in sequences(windows):
        logs = log_probabilities(ngram, tokens)
        yield WindowScore(key, -logs[np.arange(len(tokens)), tokens], logs.argmax(axis=1) == tokens)


def sequences(windows: Iterable[Batch]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the key and the unpadded codebook 0, int64 `[T]`, of each window."""
    for batch in windows:
        for (key,), codes, mask in zip(batch.keys, batch.codes[:, 0].numpy(), batch.mask.numpy(), strict=True):
            yield key, codes[mask]


def add_up(scores: Iterable[WindowScore]) -> Score:
    """Return the sums over all windows."""
    nats, correct, tokens = 0.0, 0, 0
    for score in scores:
        nats += float(score.nats.sum())
        correct += int(score.correct.sum())
        tokens += len(score.nats)
    return Score(nats, correct, tokens)
