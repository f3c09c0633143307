"""Estimate how long a plan will take, by doing a few seconds of its work on this machine."""

import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from whisper_gpt.pipeline.shards.source_reader import SourceReader
from whisper_gpt.pipeline.shards.task import WorkerSetup

MAX_SOURCES = 2_000  # per process: more than it can encode in the time


@dataclass(frozen=True)
class Measured:
    """Seconds of audio that one worker encodes per second while `workers` of them run in parallel."""

    speed: float
    workers: int


def own_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def measure(setup: WorkerSetup, rows: Sequence[dict], workers: int, seconds: float) -> Measured | None:
    """Read and encode sources of a plan's `rows` for `seconds`, in as many processes as this machine will run workers.

    Return None if none of them can be encoded, or if one crashes its process.
    """
    shares = [list(rows[i::workers][:MAX_SOURCES]) for i in range(workers)]
    shares = [share for share in shares if share]
    with ProcessPoolExecutor(len(shares), multiprocessing.get_context("spawn")) as pool:
        try:
            results = list(pool.map(_encode_for, [setup] * len(shares), shares, [seconds] * len(shares)))
        except BrokenProcessPool:
            return None
    audio_s, took_s = (sum(column) for column in zip(*results, strict=True))
    return Measured(audio_s / took_s, len(shares)) if audio_s else None


def _encode_for(setup: WorkerSetup, rows: list[dict], seconds: float) -> tuple[float, float]:
    """Return the seconds of audio encoded and the time taken; all audio that is read within `seconds` is encoded."""
    from whisper_gpt.pipeline.shards.encoder import dry_encode, load_encoder

    codec, log_mel = load_encoder(setup)
    samples, begun = 0, time.monotonic()

    def blocks(row: dict) -> Iterator[np.ndarray]:
        nonlocal samples
        if time.monotonic() - begun > seconds:
            return
        for block in SourceReader(setup.job, row).blocks():
            if time.monotonic() - begun > seconds:
                return
            samples += len(block)
            yield block

    dry_encode([blocks(row) for row in rows], codec, log_mel, setup.job.segment_frames)
    return samples / codec.sample_rate, time.monotonic() - begun
