"""Distances between a codec's input and output: training losses and metrics."""

import functools
from collections.abc import Sequence

import librosa
import torch
from torch import nn

from whisper_gpt.pipeline.frames import SAMPLE_RATE

# Windows of the multi-scale mel distance, in samples; the hop is a quarter of the window.
SCALES = (64, 128, 256, 512, 1024, 2048)
_BANDS = 64
# Magnitudes below −80 dB of a full-scale sine count as silence: speech recorded at 16 kHz has nothing above 8 kHz.
_FLOOR = 1e-4


class LogMelDistance(nn.Module):
    """Mean absolute difference of log10 mel magnitudes over windows of 64 to 2048 samples (after Défossez et al. 2022,
    arXiv 2210.13438, section 3.4): 0 for equal signals, 1 for a factor of ten in every band.
    """

    def __init__(self) -> None:
        super().__init__()
        for window in SCALES:
            self.register_buffer(f"window_{window}", torch.hann_window(window))
            self.register_buffer(f"bank_{window}", _mel_bank(window))

    def forward(self, x: torch.Tensor, y: torch.Tensor, scales: Sequence[int] = SCALES) -> torch.Tensor:
        """Return the distance of signals `[B, N]`, N at least the longest window, a scalar. `x` gets no gradient."""
        total = torch.zeros((), device=x.device)
        for window in scales:
            with torch.no_grad():
                target = self._log_mel(x, window)
            total = total + (self._log_mel(y, window) - target).abs().mean()
        return total / len(scales)

    def _log_mel(self, signals: torch.Tensor, size: int) -> torch.Tensor:
        window = self.get_buffer(f"window_{size}")
        spectrum = torch.stft(signals, size, size // 4, size, window, center=False, return_complex=True)  # [B, F, n]
        power = torch.view_as_real(spectrum).square().sum(-1) * (2 / window.sum()) ** 2
        # The square root has an infinite slope at zero; the floor avoids it.
        return torch.einsum("fm,bfn->bmn", self.get_buffer(f"bank_{size}"), (power + _FLOOR**2).sqrt()).log10()


@functools.cache
def _mel_bank(window: int) -> torch.Tensor:
    """Return mel filters `[F, M]` that each sum to 1, so that a band is a mean magnitude; empty bands are left out."""
    bank = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=window, n_mels=min(_BANDS, window // 8), norm=1)
    return torch.from_numpy(bank[bank.sum(axis=1) > 0].T).contiguous()


def noise_to_signal_db(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the power of the error y − x relative to x in dB, mean over the batch: 0 if y is silent, −∞ if equal.

    Signals `[B, N]`. As a loss it weighs quiet and loud clips equally.
    """
    tiny = 1e-7 * x.shape[-1]  # above the power of a 16-bit file's rounding noise
    ratio = ((y - x).square().sum(-1) + tiny) / (x.square().sum(-1) + tiny)
    return 10 * ratio.log10().mean()


def si_sdr_db(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return the scale-invariant signal-to-distortion ratio of `y` against `x` in dB, `[B]` (Le Roux et al. 2019,
    arXiv 1811.02508). The mean of each signal in `[B, N]` is subtracted first.
    """
    x = x - x.mean(-1, keepdim=True)
    y = y - y.mean(-1, keepdim=True)
    target = (x * y).sum(-1, keepdim=True) / x.square().sum(-1, keepdim=True).clamp_min(1e-12) * x
    noise = (y - target).square().sum(-1).clamp_min(1e-12)
    return 10 * (target.square().sum(-1).clamp_min(1e-12) / noise).log10()
