"""The multi-scale STFT discriminator of EnCodec (Défossez et al. 2022, arXiv 2210.13438, section 3.4), and its losses.

The `encodec` package has one "for reference" that needs torchaudio; this is the same architecture with `torch.stft`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

_WINDOWS = (512, 1024, 2048)
_CHANNELS = 16  # EnCodec has 32, with which a training step takes three times as long on a CPU
_DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class Judgement:
    """The output of one scale for a batch: `realness` logits `[B, 1, n, F']`, and its layers' `features`."""

    realness: torch.Tensor
    features: list[torch.Tensor]


class MultiScaleDiscriminator(nn.Module):
    """One network per STFT window; its input is an image with real and imaginary part as channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_Scale(window) for window in _WINDOWS)

    def forward(self, x: torch.Tensor, scales: Sequence[int] = range(len(_WINDOWS))) -> list[Judgement]:
        """Return the judgement of signals `[B, N]` at each of `scales`."""
        return [self.scales[i](x) for i in scales]


class _Scale(nn.Module):
    window: torch.Tensor

    def __init__(self, size: int):
        super().__init__()
        self.size = size
        self.register_buffer("window", torch.hann_window(size))
        layers = [_conv(2, (3, 9))]
        layers += [_conv(_CHANNELS, (3, 9), stride=(1, 2), dilation=(d, 1)) for d in _DILATIONS]
        layers += [_conv(_CHANNELS, (3, 3))]
        self.layers = nn.ModuleList(layers)
        self.last = weight_norm(nn.Conv2d(_CHANNELS, 1, (3, 3), padding=(1, 1)))

    def forward(self, x: torch.Tensor) -> Judgement:
        spectrum = torch.stft(
            x, self.size, self.size // 4, self.size, self.window, center=False, normalized=True, return_complex=True
        )
        image = torch.view_as_real(spectrum).permute(0, 3, 2, 1)  # [B, 2, n, F]
        features = []
        for layer in self.layers:
            image = F.leaky_relu(layer(image), 0.2)
            features.append(image)
        return Judgement(self.last(image), features)


def _conv(channels: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), dilation: tuple[int, int] = (1, 1)):
    padding = ((kernel[0] - 1) * dilation[0] // 2, (kernel[1] - 1) * dilation[1] // 2)
    return weight_norm(nn.Conv2d(channels, _CHANNELS, kernel, stride, padding, dilation))


def discriminator_loss(real: list[Judgement], fake: list[Judgement]) -> torch.Tensor:
    """Return the discriminator's hinge loss, mean over scales: 0 if real signals score above 1 and fake below −1."""
    losses = [F.relu(1 - r.realness).mean() + F.relu(1 + f.realness).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(fake: list[Judgement]) -> torch.Tensor:
    """Return the generator's hinge loss: 0 if fake signals score above 1; mean over scales."""
    return torch.stack([F.relu(1 - f.realness).mean() for f in fake]).mean()


def feature_loss(real: list[Judgement], fake: list[Judgement]) -> torch.Tensor:
    """Return the feature matching loss, mean over layers: mean |difference| relative to real features' magnitude."""
    losses = [
        (a.detach() - b).abs().mean() / a.detach().abs().mean().clamp_min(1e-6)
        for r, f in zip(real, fake, strict=True)
        for a, b in zip(r.features, f.features, strict=True)
    ]
    return torch.stack(losses).mean()
