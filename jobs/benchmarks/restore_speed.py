"""Time to restore a stream's position in a million samples, which a resumed training run waits for."""

import time
from dataclasses import dataclass

import numpy as np

from whisper_gpt.jobs.benchmarks.timing import Timing, timing_of
from whisper_gpt.pipeline.loading.order import cut_windows
from whisper_gpt.pipeline.loading.stream import StreamConfig, WindowOrder

_SAMPLES, _PER_SHARD = 1_000_000, 700


@dataclass(frozen=True)
class RestoreSpeed:
    """Milliseconds from `reset(state)` to the first batch's windows, and to cut the windows, once at the start."""

    restore_ms: Timing
    cut_windows_ms: Timing
    samples: int
    windows: int


def restore_speed(context: int, batch: int, rounds: int) -> RestoreSpeed:
    """Measure on samples of 1 to 30 s (75 to 2250 frames), at random positions in the first ten epochs."""
    random = np.random.default_rng(0)
    frames, shards = random.integers(75, 2251, _SAMPLES), np.arange(_SAMPLES) // _PER_SHARD
    cut_ms, restore_ms = [], []
    for _ in range(rounds):
        begun = time.perf_counter()
        table = cut_windows(frames, shards, context)
        cut_ms.append(1000 * (time.perf_counter() - begun))
        order = WindowOrder([table], [1.0], StreamConfig(context, batch))  # a new one, as it caches epochs
        state = {"position": int(random.integers(10 * len(table)))}
        begun = time.perf_counter()
        order.reset(state)
        next(order)
        restore_ms.append(1000 * (time.perf_counter() - begun))
    return RestoreSpeed(timing_of(restore_ms), timing_of(cut_ms), _SAMPLES, len(table))
