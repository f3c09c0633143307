"""The only use of Ray: a pool of actors that hold a codec and make shards, a bounded number in flight."""

import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray

from jobs.errors import JobError
from jobs.shard_task import ShardTask
from pipeline.codec.fingerprint import CodecFingerprint
from pipeline.errors import PipelineError
from pipeline.mel_config import MelConfig

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to make any shard of a dataset; without a file of weights, the small codec that each has."""

    codec: CodecFingerprint
    codec_weights: Path | None
    mel: MelConfig
    device: Device = "cpu"


@ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3)
class ShardWorker:
    """Holds the codec and the mel transform; one thread, so that a machine runs one worker a core."""

    def __init__(self, setup: WorkerSetup):
        import torch

        from pipeline.codec.files import SMALL_NAME, weights_file
        from pipeline.codec.loading import read_codec
        from pipeline.mel import LogMel

        torch.set_num_threads(1)
        weights, codec = setup.codec_weights or weights_file(SMALL_NAME), setup.codec
        self._codec = read_codec(weights, codec.codebooks, codec.precision, setup.device)
        if self._codec.fingerprint != setup.codec:
            raise PipelineError(f"a worker's codec {self._codec.fingerprint} is not the plan's {setup.codec}")
        self._log_mel = LogMel(setup.mel)

    @ray.method(num_returns="streaming")
    def make(self, task: ShardTask) -> Iterator[float]:
        """Make one shard, yielding the seconds of each source as it is done with."""
        from jobs.shard_making import make_shard

        yield from make_shard(task, self._codec, self._log_mel)


@contextmanager
def cluster(address: str | None, workers: int | None, device: Device = "cpu") -> Iterator[int]:
    """Ray for the length of a block → how many workers to run: one a core, or one a GPU, if `workers` does not say.

    Uses the cluster at `address` (or at `$RAY_ADDRESS`, as under `ray job submit`), else starts Ray on this machine.
    A Ray that this process is connected to already is used, and left as it is. Raises `JobError` where none answers.
    """
    started_here = not ray.is_initialized()
    if started_here:
        _start(address or os.environ.get("RAY_ADDRESS"), workers)
    try:
        found = int(ray.cluster_resources().get("GPU" if device == "cuda" else "CPU", 0))
        if device == "cuda" and found == 0:
            raise JobError("--device cuda: Ray knows of no GPU; encode with --device cpu, or on machines that have one")
        yield workers or max(1, found)
    finally:
        if started_here:
            ray.shutdown()


def refuse_dead_address(address: str | None) -> None:
    """Raise `JobError` where nothing listens at HOST:PORT: Ray itself would try for minutes before it says so."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError as error:
        raise JobError(f"--ray-address {address}: no Ray cluster answers there ({error.strerror or error})") from error


def _start(address: str | None, workers: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if address is None:
        # What passes through the object store are tasks and numbers; the shards are written by the workers.
        ray.init(num_cpus=workers, include_dashboard=False, object_store_memory=200_000_000, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error


def make_shards(tasks: Sequence[ShardTask], setup: WorkerSetup, workers: int) -> Iterator[float]:
    """Make all `tasks` on `workers` actors, one in flight on each, yielding the seconds of audio done with."""
    worker_class = ShardWorker.options(num_gpus=int(setup.device == "cuda"))  # type: ignore[attr-defined]
    idle = [worker_class.remote(setup) for _ in range(min(workers, len(tasks)))]
    waiting = sorted(tasks, key=lambda task: sum(row["seconds"] for row in task.rows))  # the longest is taken first
    running: dict[Any, Any] = {}  # progress of a task → the worker that makes it
    while waiting or running:
        while waiting and idle:
            worker = idle.pop()
            running[worker.make.remote(waiting.pop())] = worker
            del worker
        ready: list[Any] = ray.wait(list(running), num_returns=1)[0]
        for progress in ready:
            try:
                yield ray.get(next(progress))
            except StopIteration:
                worker = running.pop(progress)
                if waiting:
                    idle.append(worker)
                del worker  # the last handle frees the worker's core, which one that is not yet placed may wait for
            except ray.exceptions.RayActorError as error:
                reason = str(error).strip().splitlines()[-1].strip()
                raise JobError(
                    f"a Ray worker could not be kept alive ({reason}); rerun to go on with what is left"
                ) from error
