"""Measure the overhead of `preprocess` over processes that only decode and encode the same audio."""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, cast

import torch
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from whisper_gpt.jobs.benchmarks.codec_speed import OFFICIAL_SHAPE
from whisper_gpt.jobs.benchmarks.timing import Timing, last_line, timing_of
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.event_log import EVENTS_FILE, LOGS_FOLDER
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.preprocessing.estimate import own_cores
from whisper_gpt.pipeline.audio import probe, stream_mono
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture
from whisper_gpt.pipeline.codec.causal import untrained_codec
from whisper_gpt.pipeline.codec.files import weights_file
from whisper_gpt.pipeline.codec.loading import read_codec
from whisper_gpt.pipeline.codec.weights import save_weights
from whisper_gpt.pipeline.corpora.recording import collect
from whisper_gpt.pipeline.corpora.registry import CORPORA
from whisper_gpt.pipeline.features.encode import align_recordings
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt bench preprocess`."""

    corpus: Positional[Literal["librispeech", "maestro", "folder"]]
    """Layout of the source."""
    source: Positional[Path]
    """Folder of the corpus; in every round both encode all of it."""
    codec: str = OFFICIAL_SHAPE
    """Codec to use: official-shape (the 24 kHz model's architecture with random weights, at the same speed), or a codec
    as for preprocess."""
    workers: int | None = None
    """Number of workers, each on one core; one per core if not given."""
    rounds: int = 3
    """Number of rounds; the median is reported."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Overhead:
    """Wall times in seconds, each of a separate process from its start to its end, and their ratio; `working_s` is the
    part of `preprocess_s` from the start of the first shard to the end of the last."""

    preprocess_s: Timing
    bare_s: Timing
    working_s: Timing
    ratio: Timing
    audio_s: float
    workers: int


def run(config: Config) -> int:
    """Measure and print; return exit code 0."""
    require(config.rounds >= 1, f"--rounds {config.rounds}: must be at least 1")
    workers = config.workers or own_cores()
    scan = collect(CORPORA[config.corpus], config.source, config.corpus, ())
    paths = [config.source / recording.path for recording in scan.recordings]
    console = status_console()
    preprocess_s, bare_s, working_s = [], [], []
    with tempfile.TemporaryDirectory(prefix="whisper-gpt-bench-") as folder:
        weights = _weights(config.codec, Path(folder))
        for number in range(config.rounds):
            out = Path(folder, f"dataset-{number}")
            preprocess_s.append(_timed_preprocess(config, weights, workers, out))
            working_s.append(_working_s(out))
            bare_s.append(_timed_bare(paths, weights, workers))
            console.print(f"round {number}: preprocess {preprocess_s[-1]:.1f} s, bare {bare_s[-1]:.1f} s")
    ratio = timing_of([a / b for a, b in zip(preprocess_s, bare_s, strict=True)])
    seconds = sum(probe(path).duration_s for path in paths)
    result = Overhead(timing_of(preprocess_s), timing_of(bare_s), timing_of(working_s), ratio, seconds, workers)
    if config.json:
        print(json.dumps({"codec": config.codec, **asdict(result)}))
    else:
        _print(config, result)
    return 0


def encode_only(paths: Sequence[Path], weights: Path) -> float:
    """Decode and encode `paths` on one thread; return the seconds of audio. Run it in a separate process."""
    torch.set_num_threads(1)
    codec = read_codec(weights, codebooks=8)
    samples, mel = 0, cast(LogMel, _NoMel())
    for segments in align_recordings([stream_mono(path) for path in paths], codec, mel, segment_frames=2250):
        samples += sum(segment.samples for segment in segments)
    return samples / codec.sample_rate


class _NoMel:
    """A stand-in for `LogMel` that costs nothing."""

    config = MelConfig()

    def start(self) -> torch.Tensor:
        return torch.zeros(0)

    def step(self, context: torch.Tensor, samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(len(samples) // 320, 1), context


def _timed_preprocess(config: Config, weights: Path, workers: int, out: Path) -> float:
    command = [
        sys.executable,
        "-m",
        "whisper_gpt.jobs.cli",
        "preprocess",
        config.corpus,
        str(config.source),
        "--out",
        str(out),
    ]
    options = ["--codec", str(weights), "--workers", str(workers)]
    begun = time.monotonic()
    done = subprocess.run([*command, *options], stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise JobError(f"preprocess failed: {last_line(done.stderr)}")
    return time.monotonic() - begun


def _timed_bare(paths: Sequence[Path], weights: Path, workers: int) -> float:
    """Time `encode_only` on the same recordings, distributed by size over `workers` processes."""
    by_size = sorted(paths, key=lambda path: -path.stat().st_size)
    shares = [by_size[i::workers] for i in range(workers)]
    begun = time.monotonic()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(encode_only, shares, [weights] * workers))
    return time.monotonic() - begun


def _working_s(out: Path) -> float:
    lines = (out / LOGS_FOLDER / EVENTS_FILE).read_text().splitlines()
    times = [datetime.fromisoformat(json.loads(line)["at"]) for line in lines]
    return (max(times) - min(times)).total_seconds()


def _weights(codec: str, folder: Path) -> Path:
    """Return the path of the codec's weights."""
    if codec != OFFICIAL_SHAPE:
        return weights_file(codec)
    file = folder / f"{OFFICIAL_SHAPE}.safetensors"
    save_weights(file, OFFICIAL_SHAPE, untrained_codec(CodecArchitecture(), codebooks=8).net)
    return file


def _print(config: Config, result: Overhead) -> None:
    console = Console(highlight=False)
    console.print(f"{result.audio_s:.0f} s of audio, {result.workers} workers, codec {config.codec}")
    table = Table("", "median", "least", "most")
    for name in ("preprocess_s", "bare_s", "working_s", "ratio"):
        numbers = vars(getattr(result, name)).values()
        table.add_row(name.replace("_", " "), *(f"{number:.3f}" for number in numbers))
    console.print(table)
    speeds = [result.audio_s / timing.median for timing in (result.preprocess_s, result.bare_s)]
    console.print(f"preprocess {speeds[0]:.1f}× real time, bare {speeds[1]:.1f}×")
