"""How far a codec's output is from its input: losses to train with and figures to report."""

import functools
from collections.abc import Sequence

import librosa
import torch
from torch import nn

from whisper_gpt.pipeline.frames import SAMPLE_RATE

# Windows of the multi-scale mel distance, in samples; each moves by a quarter of itself.
SCALES = (64, 128, 256, 512, 1024, 2048)
_BANDS = 64
# Magnitudes below −80 dB of a full-scale sine count as silence: speech recorded at 16 kHz has nothing above 8 kHz.
_FLOOR = 1e-4


class LogMelDistance(nn.Module):
    """Mean |difference| of log10 mel magnitudes over windows of 64 to 2048 samples (after Défossez et al. 2022,
    arXiv 2210.13438, section 3.4): 0 for equal signals, 1 for a factor of ten in every band.
    """

    def __init__(self) -> None:
        super().__init__()
        for window in SCALES:
            self.register_buffer(f"window_{window}", torch.hann_window(window))
            self.register_buffer(f"bank_{window}", _mel_bank(window))

    def forward(self, x: torch.Tensor, y: torch.Tensor, scales: Sequence[int] = SCALES) -> torch.Tensor:
        """Signals `[B, N]`, N at least the longest window → the distance, one number. No gradient goes to `x`."""
        total = torch.zeros((), device=x.device)
        for window in scales:
            with torch.no_grad():
                wanted = self._log_mel(x, window)
            total = total + (self._log_mel(y, window) - wanted).abs().mean()
        return total / len(scales)

    def _log_mel(self, signals: torch.Tensor, size: int) -> torch.Tensor:
        window = self.get_buffer(f"window_{size}")
        spectrum = torch.stft(signals, size, size // 4, size, window, center=False, return_complex=True)  # [B, F, n]
        power = torch.view_as_real(spectrum).square().sum(-1) * (2 / window.sum()) ** 2
        # The root's slope is infinite at zero; the floor keeps it out of reach.
        return torch.einsum("fm,bfn->bmn", self.get_buffer(f"bank_{size}"), (power + _FLOOR**2).sqrt()).log10()


@functools.cache
def _mel_bank(window: int) -> torch.Tensor:
    """Mel triangles `[F, M]`, each summing to 1, so that a band holds a mean magnitude; empty bands are left out."""
    bank = librosa.filters.mel(sr=SAMPLE_RATE, n_fft=window, n_mels=min(_BANDS, window // 8), norm=1)
    return torch.from_numpy(bank[bank.sum(axis=1) > 0].T).contiguous()


def noise_to_signal_db(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Power of the error y − x over the power of x in dB, mean over the batch: 0 for silence, −∞ for equality.

    Signals `[B, N]`. As a loss it weighs quiet and loud clips alike.
    """
    tiny = 1e-7 * x.shape[-1]  # what a 16-bit file's own rounding noise comes to, and more
    ratio = ((y - x).square().sum(-1) + tiny) / (x.square().sum(-1) + tiny)
    return 10 * ratio.log10().mean()


def si_sdr_db(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Scale-invariant signal-to-distortion ratio of `y` against `x` in dB, each pair `[B]` (Le Roux et al. 2019,
    arXiv 1811.02508). Signals `[B, N]`, taken without their means.
    """
    x = x - x.mean(-1, keepdim=True)
    y = y - y.mean(-1, keepdim=True)
    target = (x * y).sum(-1, keepdim=True) / x.square().sum(-1, keepdim=True).clamp_min(1e-12) * x
    noise = (y - target).square().sum(-1).clamp_min(1e-12)
    return 10 * (target.square().sum(-1).clamp_min(1e-12) / noise).log10()
