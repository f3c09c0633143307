"""One objective for both heads: nats of the tokens, and nats per mel value with a weight."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM, Prediction


@dataclass(frozen=True)
class Losses:
    """Sums over the unmasked frames, 0-dimensional; `mel_nats` is 0 for a token-only model.

    Sums and not means, so that batches of unequal numbers of frames can be added up and divided once.
    """

    total: torch.Tensor
    token_nats: torch.Tensor
    mel_nats: torch.Tensor  # of each frame the mean over its bands
    hits: torch.Tensor  # tokens that were the likeliest
    frames: torch.Tensor


class Objective(nn.Module):
    """`training_losses` of a model as a module, for what wraps modules: DDP, torch.compile."""

    def __init__(self, model: HybridLM):
        super().__init__()
        self.model = model

    def forward(
        self, codes: torch.Tensor, mel: torch.Tensor, mask: torch.Tensor, segments: torch.Tensor | None
    ) -> Losses:
        return training_losses(self.model, codes, mel, mask, segments)


def training_losses(
    model: HybridLM,
    codes: torch.Tensor,
    mel: torch.Tensor,
    mask: torch.Tensor,
    segments: torch.Tensor | None = None,
) -> Losses:
    """Teacher-forced losses of `codes` `[B, K, T]`, raw log-mel `[B, T, M]`, `mask` `[B, T]`, and for packed windows
    `segments`. The coarsest codebook is predicted.

    In training mode the hybrid's mel input is corrupted: noise of a random deviation on each window, and in some
    windows no mel at all. Without both, it would not survive the mel of its own output.
    """
    if not model.config.hybrid:
        return losses(model(codes, None, segments=segments), codes[:, 0], None, mask, 0.0)
    target = model.mel_encoder.normalise(mel)
    seen, kept = corrupt_mel(target, model.config) if model.training else (target, None)
    return losses(model(codes, seen, kept, segments), codes[:, 0], target, mask, model.config.mel_loss_weight)


def corrupt_mel(mel: torch.Tensor, config: ModelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise of a deviation drawn from [0, `mel_noise`) on each window of the normalised `mel` `[B, T, M]`, and which
    windows keep theirs (mel dropout), bool `[B]`."""
    deviation = config.mel_noise * torch.rand(len(mel), 1, 1, device=mel.device)
    kept = torch.rand(len(mel), device=mel.device) >= config.mel_dropout
    return mel + deviation * torch.randn_like(mel), kept


def losses(
    prediction: Prediction, codes: torch.Tensor, mel: torch.Tensor | None, mask: torch.Tensor, mel_weight: float
) -> Losses:
    """Losses of a prediction against the frames that came: `codes` `[B, T]`, normalised `mel` `[B, T, M]`.

    Where `mask` is False everywhere, all are 0.
    """
    # Multiplied by the mask, not indexed with it: shapes that depend on the data stop torch.compile and stall a GPU.
    # In float32: autocast leaves logarithms and exponentials to it on a GPU, but not on a CPU.
    logits = prediction.logits.float()
    nats = F.cross_entropy(logits.flatten(0, 1), codes.flatten(), reduction="none").view_as(codes)  # [B, T]
    token_nats = (nats * mask).sum()
    hits = ((logits.argmax(dim=-1) == codes) & mask).sum()
    mel_nats = torch.zeros_like(token_nats)
    if mel is not None and prediction.mel_location is not None and prediction.mel_log_scale is not None:
        location, log_scale = prediction.mel_location.float(), prediction.mel_log_scale.float()
        by_frame = laplace_nats(mel, location, log_scale).mean(dim=-1)  # [B, T]
        mel_nats = (by_frame * mask).sum()
    return Losses(token_nats + mel_weight * mel_nats, token_nats, mel_nats, hits, mask.sum())


def laplace_nats(value: torch.Tensor, location: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """−log density of a Laplace distribution: |x − μ| / b + log 2b, with b kept above e⁻⁵."""
    log_scale = log_scale.clamp_min(-5.0)
    return (value - location).abs() * torch.exp(-log_scale) + log_scale + 0.6931471805599453
