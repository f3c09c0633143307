"""Strictly causal log-mel spectrogram: frame t ends at sample `hop·(t+1) − 1`, the last that code t depends on."""

from dataclasses import dataclass, field

import librosa
import torch

from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.float32 import full_float32
from whisper_gpt.pipeline.frames import frame_count


@dataclass(frozen=True)
class LogMel:
    """The transform of one `MelConfig`, for a whole signal or streaming with explicit context."""

    config: MelConfig
    device: torch.device | str = "cpu"
    window: torch.Tensor = field(init=False, repr=False)
    filterbank: torch.Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        c = self.config
        # Slaney's bands and area normalisation: librosa's default (librosa.filters.mel, htk=False).
        bank = librosa.filters.mel(sr=c.sample_rate, n_fft=c.window_samples, n_mels=c.bands)
        object.__setattr__(self, "window", torch.hann_window(c.window_samples).to(self.device))
        object.__setattr__(self, "filterbank", torch.from_numpy(bank.T).contiguous().to(self.device))  # [W/2+1, M]

    def start(self) -> torch.Tensor:
        """Return the context before a recording: silence, `[W − hop]`."""
        return torch.zeros(self.config.context_samples, device=self.device)

    @full_float32()
    def step(self, context: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Transform the next `samples` `[…, n·hop]` of one or several signals, given their context `[…, W − hop]`.

        Return log-mel float32 `[…, n, M]`, and the context for the next call.
        """
        c = self.config
        if samples.shape[-1] % c.hop_samples:
            raise ValueError(f"{samples.shape[-1]} samples are not a whole number of {c.hop_samples}-sample frames")
        signal = torch.cat([context, samples], dim=-1)
        frames = signal.unfold(-1, c.window_samples, c.hop_samples) * self.window  # [n, W]
        power = torch.fft.rfft(frames).abs().square()  # [n, W/2+1]
        mel = (power @ self.filterbank).clamp_min(c.floor).log10()  # [n, M]
        return mel, signal[..., signal.shape[-1] - c.context_samples :]

    def __call__(self, wav: torch.Tensor) -> torch.Tensor:
        """Return log-mel float32 `[ceil(N / hop), M]` of a whole signal `[N]`, zero-padded to a whole frame."""
        missing = frame_count(len(wav)) * self.config.hop_samples - len(wav)
        return self.step(self.start(), torch.nn.functional.pad(wav, (0, missing)))[0]
