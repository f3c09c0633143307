"""Ray for the length of a block: started on this machine, or the cluster at an address; and waiting on its results."""

import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import ray

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.pipeline.shards.task import Device

_ASK_EVERY_S = 0.5


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
            raise JobError("--device cuda: Ray knows of no GPU; take --device cpu, or machines that have one")
        yield workers or max(1, found)
    finally:
        if started_here:
            ray.shutdown()


def refuse_dead_address(address: str | None) -> None:
    """Raise `JobError` where nothing listens at HOST:PORT: Ray itself would try for minutes before it says so."""
    if (address or "").startswith("ray://"):
        raise JobError(f"--ray-address {address}: Ray Client is not used here; run on a node, or with ray job submit")
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
        # What passes through the object store are tasks and numbers; the shards are written by the workers.
        # "local": one of its own, even where another Ray runs on this machine.
        ray.init("local", num_cpus=workers, include_dashboard=False, object_store_memory=200_000_000, **quiet)
        return
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise JobError(f"--ray-address {address}: no Ray cluster answers there ({error})") from error


def first_ready(running: Iterable[Any], stopped: Callable[[], bool]) -> Any:
    """The first of some of Ray's objects or streams that has something; raises `KeyboardInterrupt` once `stopped`.

    Asked, and not raised by the signal itself: an exception that comes up while Ray lets go of an object is lost.
    """
    waiting = list(running)
    while not stopped():
        ready, _ = ray.wait(waiting, num_returns=1, timeout=_ASK_EVERY_S)
        if ready:
            return ready[0]
    raise KeyboardInterrupt
