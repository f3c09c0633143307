"""Score a model over a stream of windows: NLL and top-1 accuracy, summed in double precision."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from whisper_gpt.model.hybrid import HybridLM, Prediction
from whisper_gpt.model.language_model import LanguageModel
from whisper_gpt.model.ngram import NGram, log_probabilities
from whisper_gpt.model.objective import code_nats
from whisper_gpt.model.patterns import PatternLM
from whisper_gpt.pipeline.frames import FRAME_RATE
from whisper_gpt.pipeline.loading.stream import Batch

_FRAMES = 1024  # that the depth decoder scores at a time: 1024 × 7 × 1024 logits take 29 MB


@dataclass(frozen=True)
class Score:
    """Sums over `tokens` frames: NLL of the coarsest codebook in nats, its correct top-1 predictions, and the NLL of
    each finer codebook that the model predicts."""

    nats: float
    correct: int
    tokens: int
    finer_nats: tuple[float, ...] = ()

    @property
    def nll(self) -> float:
        """Nats per token of the coarsest codebook."""
        return self.nats / self.tokens

    @property
    def codebook_nll(self) -> list[float]:
        """Nats per token of each codebook that the model predicts."""
        return [nats / self.tokens for nats in (self.nats, *self.finer_nats)]

    @property
    def bits_per_s(self) -> float:
        """Bits per second of audio, over all codebooks that the model predicts."""
        return FRAME_RATE * sum(self.codebook_nll) / math.log(2)

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy."""
        return self.correct / self.tokens


@dataclass(frozen=True)
class WindowScore:
    """Scores of the frames in one window of a sample: nats float64 `[T, K]` of the codebooks that the model predicts,
    and top-1 correctness bool `[T]` of the coarsest."""

    key: str
    nats: np.ndarray
    correct: np.ndarray


def score_model(model: LanguageModel, windows: Iterable[Batch]) -> Score:
    """Return the teacher-forced score of `model` on `windows`; keeps the model's training mode."""
    return add_up(model_scores(model, windows))


@torch.no_grad()
def model_scores(model: LanguageModel, windows: Iterable[Batch]) -> Iterator[WindowScore]:
    """Yield teacher-forced scores of `model` on `windows`, which are not packed."""
    with evaluating(model):
        for batch in windows:
            nats, correct = _code_nats(model, batch)
            columns = (nats.double(), correct, batch.mask)
            rows = zip(batch.keys, *(column.cpu().numpy() for column in columns), strict=True)
            for (key,), row_nats, row_correct, mask in rows:
                yield WindowScore(key, row_nats[mask], row_correct[mask])


def sample_nats(model: LanguageModel, codes: np.ndarray, mel: np.ndarray) -> np.ndarray:
    """Return the teacher-forced NLL of one sample's codes, in nats, float64 `[T, K']` for the K' codebooks that `model`
    predicts, from its codes `[K, T]` and log-mel `[T, M]`, in consecutive windows of the model's context."""
    windows = []
    for start in range(0, codes.shape[1], model.config.context):
        window = slice(start, start + model.config.context)
        tensors = torch.tensor(codes[None, :, window]).long(), torch.tensor(mel[None, window]).float()
        mask = torch.ones(1, tensors[0].shape[2], dtype=torch.bool)
        windows.append(Batch(*tensors, mask, None, [("",)], [(start,)]))
    return np.concatenate([score.nats for score in model_scores(model, windows)])


@contextmanager
def evaluating(model: LanguageModel) -> Iterator[None]:
    """Keep a model in evaluation mode within the block."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def predict(model: HybridLM, codes: torch.Tensor, mel: torch.Tensor) -> Prediction:
    """Predict every frame from those before it, from `codes` `[B, K, T]` and raw log-mel `[B, T, M]`, which a
    token-only model ignores."""
    return model(codes, model.mel_encoder.normalise(mel) if model.config.hybrid else None)


def _code_nats(model: LanguageModel, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the NLL `[B, T, K]` of the codebooks that the model predicts, and the coarsest one's top-1 correctness,
    bool `[B, T]`. The depth decoder scores some frames at a time to save memory."""
    codes = batch.codes[:, : model.config.output_codebooks].transpose(1, 2)  # [B, T, K]
    if isinstance(model, PatternLM):
        nats, correct = code_nats(model(batch.codes, batch.mask)[0], codes)
        return nats, correct[..., 0]
    prediction = predict(model, batch.codes, batch.mel)
    nats, correct = code_nats(prediction.logits, codes[..., 0])
    if model.depth is None:
        return nats[..., None], correct
    parts = zip(prediction.hidden.flatten(0, 1).split(_FRAMES), codes.flatten(0, 1).split(_FRAMES), strict=True)
    finer = torch.cat([model.depth.nats(*part) for part in parts]).unflatten(0, nats.shape)
    return torch.cat([nats[..., None], finer], dim=2), correct


def ngram_scores(ngram: NGram, windows: Iterable[Batch]) -> Iterator[WindowScore]:
    """Yield scores of an n-gram model on codebook 0 of `windows`, each from an empty history as for neural models."""
    for key, tokens in sequences(windows):
        logs = log_probabilities(ngram, tokens)
        nats = -logs[np.arange(len(tokens)), tokens]
        yield WindowScore(key, nats[:, None], logs.argmax(axis=1) == tokens)


def sequences(windows: Iterable[Batch]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the key and the unpadded codebook 0, int64 `[T]`, of each window."""
    for batch in windows:
        for (key,), codes, mask in zip(batch.keys, batch.codes[:, 0].numpy(), batch.mask.numpy(), strict=True):
            yield key, codes[mask]


def add_up(scores: Iterable[WindowScore]) -> Score:
    """Return the sums over all windows."""
    nats, correct, tokens = np.zeros(1), 0, 0  # broadcast to the number of codebooks
    for score in scores:
        nats = nats + score.nats.sum(axis=0)
        correct += int(score.correct.sum())
        tokens += len(score.nats)
    coarsest, *finer = nats.tolist()
    return Score(coarsest, correct, tokens, tuple(finer))
