"""The training objective of both heads: token cross-entropy plus the weighted Laplace NLL of the mel, in nats."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM, Prediction


@dataclass(frozen=True)
class Losses:
    """Sums over the frames where the mask is True, each a scalar; `mel_nats` is 0 for a token-only model.

    Sums, not means, so that batches with different numbers of frames can be added up and divided once.
    """

    total: torch.Tensor
    token_nats: torch.Tensor
    mel_nats: torch.Tensor  # per frame the mean over its bands
    correct: torch.Tensor  # tokens whose top-1 prediction is right
    frames: torch.Tensor


class Objective(nn.Module):
    """`training_losses` as a module, because DDP and torch.compile wrap modules."""

    def __init__(self, model: HybridLM):
        super().__init__()
        self.model = model

    def forward(
        self, codes: torch.Tensor, mel: torch.Tensor, mask: torch.Tensor, doc_ids: torch.Tensor | None
    ) -> Losses:
        return training_losses(self.model, codes, mel, mask, doc_ids)


def training_losses(
    model: HybridLM,
    codes: torch.Tensor,
    mel: torch.Tensor,
    mask: torch.Tensor,
    doc_ids: torch.Tensor | None = None,
) -> Losses:
    """Return teacher-forced losses for `codes` `[B, K, T]`, raw log-mel `[B, T, M]`, `mask` `[B, T]`, and for packed
    windows `doc_ids` `[B, T]`. The target is the coarsest codebook.

    In training mode the hybrid's mel input is corrupted: noise with a random standard deviation per window, and no mel
    at all in some windows. Both reduce exposure bias: in generation the mel comes from the model's own tokens.
    """
    if not model.config.hybrid:
        return losses(model(codes, None, doc_ids=doc_ids), codes[:, 0], None, mask, 0.0)
    target = model.mel_encoder.normalise(mel)
    mel_input, keep_mel = corrupt_mel(target, model.config) if model.training else (target, None)
    return losses(model(codes, mel_input, keep_mel, doc_ids), codes[:, 0], target, mask, model.config.mel_loss_weight)


def corrupt_mel(mel: torch.Tensor, config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the normalised `mel` `[B, T, M]` with noise, and which windows keep their mel (mel dropout), bool `[B]`.

    The noise's standard deviation is drawn from [0, `mel_noise`) per window.
    """
    deviation = config.mel_noise * torch.rand(len(mel), 1, 1, device=mel.device)
    keep_mel = torch.rand(len(mel), device=mel.device) >= config.mel_dropout
    return mel + deviation * torch.randn_like(mel), keep_mel


def losses(
    prediction: Prediction, codes: torch.Tensor, mel: torch.Tensor | None, mask: torch.Tensor, mel_weight: float
) -> Losses:
    """Return the losses of a prediction against its targets: `codes` `[B, T]` and normalised `mel` `[B, T, M]`.

    All losses are 0 if `mask` is False everywhere.
    """
    # Multiplied by the mask, not indexed with it: data-dependent shapes break torch.compile's graph and stall a GPU.
    # In float32: autocast runs logarithms and exponentials in float32 on a GPU, but not on a CPU.
    logits = prediction.logits.float()
    nats = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view_as(codes)  # [B, T]
    token_nats = (nats * mask).sum()
    correct = ((logits.argmax(dim=-1) == codes) & mask).sum()
    mel_nats = torch.zeros_like(token_nats)
    if mel is not None and prediction.mel_location is not None and prediction.mel_log_scale is not None:
        location, log_scale = prediction.mel_location.float(), prediction.mel_log_scale.float()
        nats_per_frame = laplace_nats(mel, location, log_scale).mean(dim=-1)  # [B, T]
        mel_nats = (nats_per_frame * mask).sum()
    return Losses(token_nats + mel_weight * mel_nats, token_nats, mel_nats, correct, mask.sum())


def laplace_nats(value: torch.Tensor, location: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Return −log of a Laplace density: |x − μ| / b + log 2b, with b clamped to at least e⁻⁵."""
    log_scale = log_scale.clamp_min(-5.0)
    return (value - location).abs() * torch.exp(-log_scale) + log_scale + 0.6931471805599453
