"""The quality of a codec on recordings: distances of its reconstructions, and of a control."""

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
    """Decode the `codes` `[K', T]` of each of `wavs` `[N]`, cut to the length of the original."""
    return [codec.decode(wav_codes)[: len(wav)] for wav, wav_codes in zip(wavs, codes, strict=True)]


def shifted(wavs: Sequence[np.ndarray], seconds: float = 0.5) -> list[np.ndarray]:
    """Return a control with the same content at other times: each of `wavs` `[N]` rotated by `seconds`."""
    return [np.roll(wav, round(seconds * SAMPLE_RATE)) for wav in wavs]


@torch.no_grad()
def distances(wavs: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> Distances:
    """Return the mean distances of `others` from `wavs`, pairs of signals `[N]` of at least 2048 samples."""
    log_mel = LogMelDistance()
    pairs = [
        (torch.from_numpy(wav)[None], torch.from_numpy(other)[None]) for wav, other in zip(wavs, others, strict=True)
    ]
    return Distances(
        float(np.mean([log_mel(x, y).item() for x, y in pairs])),
        float(np.mean([si_sdr_db(x, y).item() for x, y in pairs])),
    )


def peak_ratio(wav: np.ndarray, other: np.ndarray) -> float:
    """Return the ratio of the peak of `other` to that of `wav`, signals `[N]`; NaN if `wav` is digital silence."""
    peak = np.abs(wav).max()
    return float(np.abs(other).max() / peak) if peak > 0 else np.nan


def bitrate_kbps(codec: Codec, codebooks: int) -> float:
    """Return the bitrate of `codebooks` codebooks in kilobits per second."""
    return codebooks * np.log2(codec.codebook_size) * codec.sample_rate / codec.hop / 1000
