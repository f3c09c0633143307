"""How good a codec is on some recordings: distances of what it gives back, and of a control."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.distances import LogMelDistance, si_sdr_db
from whisper_gpt.pipeline.frames import SAMPLE_RATE


@dataclass(frozen=True)
class Distances:
    """Means over recordings: the multi-scale log-mel distance, and SI-SDR in dB."""

    log_mel: float
    si_sdr_db: float


def reconstructions(codec: Codec, wavs: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Each of `wavs` `[N]` as its `codes` `[K', T]` give it back."""
    return [codec.decode(own)[: len(wav)] for wav, own in zip(wavs, codes, strict=True)]


def shifted(wavs: Sequence[np.ndarray], seconds: float = 0.5) -> list[np.ndarray]:
    """A control that has everything of the signal but the moment: each of `wavs` `[N]` rotated by `seconds`."""
    return [np.roll(wav, round(seconds * SAMPLE_RATE)) for wav in wavs]


@torch.no_grad()
def distances(wavs: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Distances:
    """How far `others` are from `wavs`, pairs of signals `[N]` of at least 2048 samples."""
    log_mel = LogMelDistance()
    pairs = [
        (torch.from_numpy(wav)[None], torch.from_numpy(other)[None]) for wav, other in zip(wavs, others, strict=True)
    ]
    return Distances(
        float(np.mean([log_mel(x, y).item() for x, y in pairs])),
        float(np.mean([si_sdr_db(x, y).item() for x, y in pairs])),
    )


def peak_ratio(wav: np.ndarray, other: np.ndarray) -> float:
    """Largest magnitude of `other` over that of `wav`, signals `[N]`; NaN where `wav` is digital silence."""
    peak = np.abs(wav).max()
    return float(np.abs(other).max() / peak) if peak > 0 else np.nan


def bitrate_kbps(codec: Codec, codebooks: int) -> float:
    """Kilobits a second of `codebooks` codebooks."""
    return codebooks * np.log2(codec.codebook_size) * codec.sample_rate / codec.hop / 1000
