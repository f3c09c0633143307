"""The only use of Ray: a pool of actors that hold a codec and make shards, a bounded number in flight."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from jobs.errors import JobError
from jobs.shard_task import ShardTask, make_shard
from pipeline.mel import MelConfig


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to make any shard of a dataset."""

    codec: str
    codec_weights: Path | None
    codebooks: int
    mel: MelConfig


@ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3)
class ShardWorker:
    """Holds the codec and the mel transform; one thread, so that a machine runs one worker a core."""

    def __init__(self, setup: WorkerSetup):
        import torch

        from pipeline.codec_weights import load_codec
        from pipeline.mel import LogMel

        torch.set_num_threads(1)
        self._codec = load_codec(setup.codec, setup.codec_weights, setup.codebooks)
        self._log_mel = LogMel(setup.mel)

    @ray.method(num_returns="streaming")
    def make(self, task: ShardTask) -> Iterator[float]:
        """Make one shard, yielding the seconds of each source as it is done with."""
        yield from make_shard(task, self._codec, self._log_mel)


def connect(address: str | None, workers: int | None) -> int:
    """Connect to the cluster at `address`, or start Ray on this machine → how many workers to run.

    Raises `JobError` where no cluster answers at `address`.
    """
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if address:
            try:
                ray.init(address=address, **quiet)
            except ConnectionError as error:
                raise JobError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error
        else:
            ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=200_000_000, **quiet)
    return workers or max(1, int(ray.cluster_resources().get("CPU", 1)))


def make_shards(tasks: Sequence[ShardTask], setup: WorkerSetup, workers: int) -> Iterator[tuple[ShardTask, float]]:
    """Make all `tasks` on `workers` actors, one in flight on each, yielding (task, seconds of audio done with)."""
    idle = [ShardWorker.remote(setup) for _ in range(min(workers, len(tasks)))]  # type: ignore[attr-defined]
    waiting = list(reversed(tasks))
    running: dict[Any, tuple[Any, ShardTask]] = {}
    while waiting or running:
        while waiting and idle:
            worker, task = idle.pop(), waiting.pop()
            running[worker.make.remote(task)] = worker, task
        ready: list[Any] = ray.wait(list(running), num_returns=1)[0]
        for progress in ready:
            worker, task = running[progress]
            try:
                seconds: float = ray.get(next(progress))
            except StopIteration:
                del running[progress]
                idle.append(worker)
            else:
                yield task, seconds
