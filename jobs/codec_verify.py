"""Check the official codec on a recording whose codes are known, as its own publishers' code gave them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from tyro.conf import Positional

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.codec.files import OFFICIAL_NAME, WeightsUnavailable
from whisper_gpt.pipeline.codec.loading import load_codec
from whisper_gpt.pipeline.errors import AudioError

# Another resampler and the first frames' other surroundings change some codes; wrong weights change nearly all.
_LEAST_AGREEMENT = 0.8
_FIRST_FRAMES = 10


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt verify-codec`."""

    known: Positional[Path]
    """Folder of NAME.wav with NAME.codes.npy, the codes [K, T] that the official 24 kHz model gives for it."""
    codec_weights: Path | None = None
    """As for preprocess."""


def run(config: Config) -> int:
    """Compare codes, codebook by codebook → exit code 0, or 1 where the first codebook disagrees.

    Where the official weights cannot be had there is nothing to check: a sentence says so, and the exit code is 0.
    """
    console = Console(highlight=False, soft_wrap=True)
    answers = sorted(config.known.glob("[!.]*.codes.npy"))
    if not answers:
        raise JobError(f"{config.known}: no NAME.codes.npy in here")
    try:
        codec = load_codec(OFFICIAL_NAME, config.codec_weights)
    except WeightsUnavailable as error:
        console.print(f"skipped: {error}")
        return 0
    agreed = True
    for answer in answers:
        wav = answer.with_name(answer.name.removesuffix(".codes.npy") + ".wav")
        try:
            expected = np.load(answer, allow_pickle=False)
            codes = codec.encode(read_mono(wav))
            shares = agreement(codes, expected.reshape(-1, expected.shape[-1]))
        except (AudioError, ValueError, IndexError, OSError, EOFError) as error:
            raise JobError(f"{wav} and {answer.name}: {error}") from error
        agreed &= shares[0] >= _LEAST_AGREEMENT
        console.print(f"{wav.name}: codes equal, by codebook: {' '.join(f'{share:.1%}' for share in shares)}")
    console.print("as expected" if agreed else f"the first codebook should agree in {_LEAST_AGREEMENT:.0%}")
    return 0 if agreed else 1


def agreement(codes: np.ndarray, expected: np.ndarray) -> list[float]:
    """The share of equal codes in each codebook that both `[K, T]` have, but for the first frames."""
    books, end = min(len(codes), len(expected)), min(codes.shape[1], expected.shape[1])
    same = codes[:books, _FIRST_FRAMES:end] == expected[:books, _FIRST_FRAMES:end]
    return [float(share) for share in same.mean(axis=1)]
