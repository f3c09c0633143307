"""How good a codec is on some recordings: distances at each bitrate, and how much of its codebooks it uses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.audio import SAMPLE_RATE
from pipeline.codec.causal import Codec
from pipeline.codec.distances import LogMelDistance, si_sdr_db


@dataclass(frozen=True)
class Distances:
    """Means over recordings: the multi-scale log-mel distance, and SI-SDR in dB."""

    log_mel: float
    si_sdr_db: float


@dataclass(frozen=True)
class CodebookUse:
    """Of one codebook: the share of its codewords that occur, and the entropy of their frequencies in bits."""

    share: float
    entropy_bits: float


def reconstructions(codec: Codec, wavs: Sequence[np.ndarray], codebooks: int) -> list[np.ndarray]:
    """Each of `wavs` `[N]` encoded, and decoded from its first `codebooks` codebooks."""
    return [codec.decode(codec.encode(wav)[:codebooks])[: len(wav)] for wav in wavs]


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


def codebook_use(codes: Sequence[np.ndarray], size: int) -> list[CodebookUse]:
    """The use of each codebook in `codes`, arrays `[K, T]`."""
    joined = np.concatenate(codes, axis=1)
    uses = []
    for book in joined:
        share = np.bincount(book, minlength=size) / joined.shape[1]
        used = share[share > 0]
        uses.append(CodebookUse(len(used) / size, float(-(used * np.log2(used)).sum())))
    return uses


def bitrate_kbps(codec: Codec, codebooks: int) -> float:
    """Kilobits a second of `codebooks` codebooks."""
    return codebooks * np.log2(codec.codebook_size) * codec.sample_rate / codec.hop / 1000
