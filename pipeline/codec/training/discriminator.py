"""The multi-scale STFT discriminator of EnCodec (Défossez et al. 2022, arXiv 2210.13438, section 3.4), and its losses.

The `encodec` package has one "for reference", which needs torchaudio; this is the same shape on `torch.stft`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

_WINDOWS = (512, 1024, 2048)
_CHANNELS = 16  # EnCodec has 32: three times the time of a training step on a CPU
_DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class Judgement:
    """What one scale says of a batch: how real each place is `[B, 1, n, F']`, and what its layers saw on the way."""

    realness: torch.Tensor
    features: list[torch.Tensor]


class MultiScaleDiscriminator(nn.Module):
    """One network for each STFT window, each looking at real and imaginary parts as an image."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleList(_Scale(window) for window in _WINDOWS)

    def forward(self, x: torch.Tensor, scales: Sequence[int] = range(len(_WINDOWS))) -> list[Judgement]:
        """Signals `[B, N]` → the judgement at each of `scales`."""
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


def discriminator_loss(real: list[Judgement], made: list[Judgement]) -> torch.Tensor:
    """Hinge: 0 where real signals are judged above 1 and made ones below −1; the mean over scales."""
    losses = [F.relu(1 - r.realness).mean() + F.relu(1 + m.realness).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(losses).mean()


def adversarial_loss(made: list[Judgement]) -> torch.Tensor:
    """Hinge of the other side: 0 where made signals are judged above 1; the mean over scales."""
    return torch.stack([F.relu(1 - m.realness).mean() for m in made]).mean()


def feature_loss(real: list[Judgement], made: list[Judgement]) -> torch.Tensor:
    """Mean |difference| of what the layers saw, in units of its size for the real signals; the mean over layers."""
    losses = [
        (a.detach() - b).abs().mean() / a.detach().abs().mean().clamp_min(1e-6)
        for r, m in zip(real, made, strict=True)
        for a, b in zip(r.features, m.features, strict=True)
    ]
    return torch.stack(losses).mean()
