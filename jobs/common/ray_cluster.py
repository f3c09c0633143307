"""Start Ray or connect to a cluster for the length of a block, and wait for results."""

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.pipeline.shards.task import Device

_POLL_S = 0.5


@contextmanager
def cluster(
    address: str | None, workers: int | None, device: Device = "cpu", workers_per_gpu: int = 1
) -> Iterator[int]:
    """Use Ray for the length of a block; yield the number of workers: `workers`, or else one per core, or for CUDA as
    many as share the GPUs.

    Connects to the cluster at `address` (or `$RAY_ADDRESS`, as under `ray job submit`), else starts Ray here.
    An existing connection of this process is used, and left open. Raises `JobError` if no cluster answers.
    """
    started_here = not ray.is_initialized()
    if started_here:
        _start(address or os.environ.get("RAY_ADDRESS"), workers)
    try:
        slots = worker_slots(device, workers_per_gpu)
        yield workers or slots
    finally:
        if started_here:
            ray.shutdown()


def worker_slots(device: Device, workers_per_gpu: int) -> int:
    """Return how many workers the connected cluster has room for. Raises `JobError` for CUDA if it has no GPU."""
    resources = ray.cluster_resources()
    if device == "cpu":
        return max(1, int(resources.get("CPU", 0)))
    if not (gpus := int(resources.get("GPU", 0))):
        raise JobError("--device cuda: Ray finds no GPU; use --device cpu, or machines with GPUs")
    return gpus * workers_per_gpu


def refuse_dead_address(address: str | None) -> None:
    """Raise `JobError` if nothing listens at HOST:PORT; Ray itself would retry for minutes."""
    if (address or "").startswith("ray://"):
        raise JobError(f"--ray-address {address}: Ray Client is not supported; run on a node, or with ray job submit")
    host, _, port = (address or "").rpartition(":")
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
        # A small object store: only tasks and numbers pass through it, the workers write the shards.
        # "local": a new instance, even if another Ray runs on this machine.
        ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=200_000_000, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error


def first_ready(running: Iterable[Any], stopped: Callable[[], bool], timeout_s: float = math.inf) -> Any:
    """Return the first of Ray's objects or streams that is ready, or None after `timeout_s`; raise `KeyboardInterrupt`
    once `stopped`.

    `stopped` is polled instead of raising in the signal handler: an exception raised while Ray releases an object is
    lost.
    """
    waiting, end = list(running), time.monotonic() + timeout_s
    while not stopped():
        left = end - time.monotonic()
        if left <= 0:
            return None
        if not waiting:
            time.sleep(min(left, _POLL_S))
            continue
        ready, _ = ray.wait(waiting, num_returns=1, timeout=min(left, _POLL_S))
        if ready:
            return ready[0]
    raise KeyboardInterrupt
