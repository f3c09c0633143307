"""Time codec and mel on this machine against the packages they replace, in alternation, with spread."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from whisper_gpt.jobs.benchmarks.codec_speed import OFFICIAL_SHAPE, benchmarked_codec, decode_speed, encode_speed
from whisper_gpt.jobs.benchmarks.mel_speed import mel_speed
from whisper_gpt.jobs.benchmarks.timing import Timing
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.pipeline.audio import stream_mono
from whisper_gpt.pipeline.corpora import folder
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.frames import HOP_SAMPLES, SAMPLE_RATE


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt bench`."""

    what: Positional[Literal["encode", "decode", "mel"]]
    """What to time: encode or decode against the encodec package, or mel against librosa."""
    audio: Positional[Path | None] = None
    """Folder of audio to measure on; noise if not given. Speed does not depend on it; agreement of codes does."""
    codec: str = OFFICIAL_SHAPE
    """Codec to time: official-shape (the 24 kHz model's architecture with random weights, at the same speed), or any
    codec of preprocess."""
    codebooks: int = 8
    """Number of codebooks to encode."""
    clips: int = 8
    """Number of clips."""
    seconds: float = 30.0
    """Length of each clip in seconds; recordings are concatenated to fill it."""
    rounds: int = 5
    """Number of rounds; the median is reported."""
    threads: int = 1
    """Number of torch threads."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Measure and print; return exit code 0."""
    for name in ("clips", "rounds", "threads"):
        require(getattr(config, name) >= 1, f"--{name} {getattr(config, name)}: must be at least 1")
    require(config.seconds >= 1, f"--seconds {config.seconds}: must be at least 1")
    torch.set_num_threads(config.threads)
    clips = read_clips(config.audio, config.clips, config.seconds)
    if config.what == "mel":
        result: Any = mel_speed(clips, config.rounds)
    else:
        measure = encode_speed if config.what == "encode" else decode_speed
        result = measure(benchmarked_codec(config.codec, config.codebooks), clips, config.rounds)
    if config.json:
        print(json.dumps(_flat(result) | ({"codec": config.codec} if config.what != "mel" else {})))
    else:
        _print(config, result)
    return 0


def read_clips(audio: Path | None, count: int, seconds: float) -> np.ndarray:
    """Return `count` clips, float32 `[count, N]` at 24 kHz, cut from the concatenated recordings below `audio`; without
    a folder, noise of varying loudness. Raises `JobError` if there is too little audio."""
    length = round(seconds * SAMPLE_RATE) // HOP_SAMPLES * HOP_SAMPLES
    if audio is None:
        random = np.random.default_rng(0)
        envelope = np.repeat(random.uniform(0.003, 0.3, count * length // 800 + 1), 800)[: count * length]
        joined = random.standard_normal(count * length).astype(np.float32) * envelope.astype(np.float32)
    else:
        blocks, samples = [], 0
        for block in _blocks(audio):
            blocks.append(block)
            samples += len(block)
            if samples >= count * length:
                break
        else:
            raise JobError(f"{audio}: holds {samples / SAMPLE_RATE:.0f} s of audio, not {count} × {seconds:g} s")
        joined = np.concatenate(blocks)[: count * length]
    return joined.reshape(count, length)


def _blocks(audio: Path) -> Iterator[np.ndarray]:
    for recording in folder.scan(audio).recordings:
        try:
            yield from stream_mono(audio / recording.path)
        except AudioError as error:
            raise JobError(f"{audio / recording.path}: {error}; measure on a folder without it") from error


def _flat(result: Any) -> dict[str, Any]:
    """Flatten the result for JSON: a timing becomes its median and its spread."""
    flat: dict[str, Any] = {}
    for name, value in vars(result).items():
        if isinstance(value, Timing):
            flat |= {name: value.median, f"{name}_spread": [value.least, value.most]}
        else:
            flat[name] = value
    return flat


def _print(config: Config, result: Any) -> None:
    console = Console(highlight=False)
    codec = f", codec {config.codec}" if config.what != "mel" else ""
    console.print(f"{config.what}: {result.seconds:g} s of audio, threads: {result.threads}{codec}")
    table = Table("", "median", "least", "most")
    for name, value in vars(result).items():
        if isinstance(value, Timing):
            table.add_row(name.replace("_", " "), *(f"{number:.2f}" for number in vars(value).values()))
        elif name not in ("threads", "seconds"):
            table.add_row(name.replace("_", " "), f"{value:.3g}" if abs(value) < 1e-2 else f"{value:.4f}")
    console.print(table)
