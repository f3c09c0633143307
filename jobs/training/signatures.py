"""Signatures of failures that the loss does not show: a hybrid that ignores one of its streams, a drone."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from whisper_gpt.jobs.inference.scoring import evaluating
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.objective import code_nats
from whisper_gpt.pipeline.judge.codes import commonest_share, entropy
from whisper_gpt.pipeline.loading.stream import Batch

_IGNORED = 0.02  # of what withholding the other stream costs
_MATTERS = 0.05  # nats; below that neither stream has been learnt yet
_COLLAPSED = 0.7  # of the entropy of real codes; a healthy model comes within 10 %
_FEWEST_FRAMES = 75  # a shorter clip says nothing about entropy


@dataclass(frozen=True)
class Withheld:
    """How many nats per token of codebook 0 a hybrid loses without its mel, and without its tokens."""

    mel: float
    tokens: float

    def warning(self) -> str | None:
        """Say which stream is ignored, if one is."""
        ignored = "mel" if self.mel < self.tokens else "tokens"
        least, most = sorted((self.mel, self.tokens))
        if not (most >= _MATTERS and least <= _IGNORED * most):  # nor if they are not numbers
            return None
        costs = f"without its mel it loses {self.mel:.3f} nats per token, without its tokens {self.tokens:.3f}"
        return f"the model ignores its {ignored}: {costs}"


@torch.no_grad()
def withheld(model: HybridLM, batch: Batch) -> Withheld:
    """Measure a hybrid on a `batch` that is not packed; keeps the model's training mode."""
    mel, codes = model.mel_encoder.normalise(batch.mel), batch.codes
    no_tokens = codes.new_full((len(codes), model.config.input_codebooks, codes.shape[2]), model.begin_token)
    mel_mask = torch.ones_like(batch.mask)
    mel_mask[:, 0] = False
    with evaluating(model):
        predictions = (
            model(codes, mel),
            model(codes, None),
            model.predict_next(no_tokens, F.pad(mel[:, :-1], (0, 0, 1, 0)), mel_mask),
        )
    nats = [code_nats(prediction.logits, codes[:, 0])[0] for prediction in predictions]
    both, without_mel, without_tokens = (float((n * batch.mask).sum() / batch.mask.sum()) for n in nats)
    return Withheld(without_mel - both, without_tokens - both)


@dataclass(frozen=True)
class CodeSpread:
    """Entropy in nats of a clip's codebook 0 and of as many real codes, and the share of each one's commonest code."""

    entropy: float
    real_entropy: float
    commonest: float
    real_commonest: float
    frames: int

    def warning(self) -> str | None:
        """Say that the clip drones, if it does."""
        if self.frames < _FEWEST_FRAMES or self.entropy >= _COLLAPSED * self.real_entropy:
            return None
        return (
            f"generated audio drones: its codes have an entropy of {self.entropy:.2f} nats, real ones "
            f"{self.real_entropy:.2f}; the commonest is {self.commonest:.0%} of them, of real ones "
            f"{self.real_commonest:.0%}"
        )


def code_spread(drawn: np.ndarray, real: np.ndarray) -> CodeSpread:
    """Compare the coarsest codes of a clip, `[n]`, with real ones `[m]`, over as many frames of each."""
    frames = min(len(drawn), len(real))
    drawn, real = drawn[:frames], real[:frames]
    return CodeSpread(entropy(drawn), entropy(real), commonest_share(drawn), commonest_share(real), frames)
