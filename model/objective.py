"""The training objective: cross-entropy of the tokens plus the weighted Laplace NLL of the mel, in nats."""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.depth import DepthDecoder
from whisper_gpt.model.hybrid import HybridLM, Prediction
from whisper_gpt.model.language_model import LanguageModel
from whisper_gpt.model.patterns import PatternLM


@dataclass(frozen=True)
class Losses:
    """Sums over the frames where the mask is True, scalars but for `finer_nats`; `mel_nats` is 0 without a mel branch.

    Sums, not means, so that batches with different numbers of frames can be added up and divided once.
    """

    total: torch.Tensor
    token_nats: torch.Tensor  # of the coarsest codebook
    finer_nats: torch.Tensor  # [K - 1], of the others; a depth decoder's are estimated from a sample of the frames
    mel_nats: torch.Tensor  # per frame the mean over its bands
    correct: torch.Tensor  # tokens whose top-1 prediction is right
    frames: torch.Tensor


class Objective(nn.Module):
    """`training_losses` as a module, because DDP and torch.compile wrap modules."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.model = model

    def forward(
        self, codes: torch.Tensor, mel: torch.Tensor, mask: torch.Tensor, doc_ids: torch.Tensor | None
    ) -> Losses:
        if isinstance(self.model, PatternLM):
            return pattern_losses(self.model, codes, mask, doc_ids)
        return training_losses(self.model, codes, mel, mask, doc_ids)


def training_losses(
    model: HybridLM,
    codes: torch.Tensor,
    mel: torch.Tensor,
    mask: torch.Tensor,
    doc_ids: torch.Tensor | None = None,
) -> Losses:
    """Return teacher-forced losses for `codes` `[B, K, T]`, raw log-mel `[B, T, M]`, `mask` `[B, T]`, and for packed
    windows `doc_ids` `[B, T]`. The targets are the coarsest `output_codebooks` of `codes`.

    In training mode the hybrid's mel input is corrupted: noise with a random standard deviation per window, and no mel
    at all in some windows. Both reduce exposure bias: in generation the mel comes from the model's own tokens.
    """
    config, target, mel_input, keep_mel = model.config, None, None, None
    if config.hybrid:
        target = model.mel_encoder.normalise(mel)
        mel_input, keep_mel = corrupt_mel(target, config) if model.training else (target, None)
    prediction = model(codes, mel_input, keep_mel, doc_ids)
    coarsest = losses(prediction, codes[:, 0], target, mask, config.mel_loss_weight)
    if model.depth is None:
        return coarsest
    finer = finer_nats(model.depth, prediction.hidden, codes, mask, config.depth_frames)
    return replace(coarsest, total=coarsest.total + config.finer_loss_weight * finer.mean(), finer_nats=finer)


def pattern_losses(
    model: PatternLM, codes: torch.Tensor, mask: torch.Tensor, doc_ids: torch.Tensor | None = None
) -> Losses:
    """Return teacher-forced losses for `codes` `[B, K, T]`, `mask` `[B, T]` and for packed windows `doc_ids` `[B, T]`.

    Codes that packing leaves without a prediction count as much as the mean of the others.
    """
    logits, predicted = model(codes, mask, doc_ids)
    nats, correct = code_nats(logits, codes[:, : logits.shape[2]].transpose(1, 2))
    weight = predicted & mask[..., None]
    scale = mask.sum() / weight.sum(dim=(0, 1)).clamp_min(1)
    coarsest, *finer = ((nats * weight).sum(dim=(0, 1)) * scale).unbind()
    finer_nats = torch.stack(finer)
    total = coarsest + model.config.finer_loss_weight * finer_nats.mean()
    return Losses(total, coarsest, finer_nats, torch.zeros_like(coarsest), (correct[..., 0] & mask).sum(), mask.sum())


def code_nats(logits: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the NLL, float32 `[…]`, of `codes` `[…]` under `logits` `[…, V]`, and whether each is the most likely."""
    # In float32: autocast runs logarithms and exponentials in float32 on a GPU, but not on a CPU.
    logits = logits.float()
    nats = F.cross_entropy(logits.flatten(0, -2), codes.flatten(), reduction="none").view_as(codes)
    return nats, logits.argmax(dim=-1) == codes


def finer_nats(
    depth: DepthDecoder, hidden: torch.Tensor, codes: torch.Tensor, mask: torch.Tensor, share: float
) -> torch.Tensor:
    """Return the summed NLL `[K − 1]` of the finer codebooks over the frames of `mask` `[B, T]`, estimated from a
    random sample: as many frames as `share` of `B · T`, of one number whatever the mask is, so that shapes are static.

    The logits of all frames would take B · T · (K − 1) · V numbers.
    """
    count = max(1, round(share * mask.numel()))
    order = torch.rand(mask.numel(), device=mask.device) + mask.flatten()  # unmasked frames come first
    chosen = order.topk(count).indices
    frames = codes[:, : depth.finer + 1].transpose(1, 2).flatten(0, 1)[chosen]  # [n, K]
    weight = mask.flatten()[chosen]
    nats = depth.nats(hidden.flatten(0, 1)[chosen], frames)
    return (nats * weight[:, None]).sum(dim=0) * (mask.sum() / weight.sum().clamp_min(1))


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
    """Return the losses of the coarsest codebook, `codes` `[B, T]`, and of the normalised `mel` `[B, T, M]`.

    All losses are 0 if `mask` is False everywhere.
    """
    # Multiplied by the mask, not indexed with it: data-dependent shapes break torch.compile's graph and stall a GPU.
    nats, correct = code_nats(prediction.logits, codes)  # each [B, T]
    token_nats = (nats * mask).sum()
    mel_nats = torch.zeros_like(token_nats)
    if mel is not None and prediction.mel_location is not None and prediction.mel_log_scale is not None:
        location, log_scale = prediction.mel_location.float(), prediction.mel_log_scale.float()
        nats_per_frame = laplace_nats(mel, location, log_scale).mean(dim=-1)  # [B, T]
        mel_nats = (nats_per_frame * mask).sum()
    total = token_nats + mel_weight * mel_nats
    return Losses(total, token_nats, token_nats.new_zeros(0), mel_nats, (correct & mask).sum(), mask.sum())


def laplace_nats(value: torch.Tensor, location: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    """Return −log of a Laplace density: |x − μ| / b + log 2b, with b clamped to at least e⁻⁵."""
    log_scale = log_scale.clamp_min(-5.0)
    return (value - location).abs() * torch.exp(-log_scale) + log_scale + 0.6931471805599453
