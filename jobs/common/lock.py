"""One run at a time on one dataset, and the litter of killed runs swept before work begins."""

import contextlib
import fcntl
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from upath import UPath

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.event_log import LOGS_FOLDER
from whisper_gpt.manifests.full_disk import naming_full_disk
from whisper_gpt.manifests.location import Location, is_remote
from whisper_gpt.manifests.publish import TEMPORARY_SUFFIX

LOCK_FILE = f"{LOGS_FOLDER}/lock"
_RENEWED_EVERY_S = 5.0
_STALE_AFTER_S = 20.0


@contextlib.contextmanager
def output_lock(dataset: Location) -> Iterator[Callable[[], None]]:
    """Hold `dataset` for the length of a block; temporary files of killed runs and workers are removed around it.

    Raises `JobError` where a living run holds it. In a folder the lock is the operating system's (flock): it ends with
    its process, however that ends. In an object store it is an object that its run renews every few seconds; one that
    is watched for 20 s and does not change is a dead run's. Yields a function that raises `JobError` where the lock was
    lost to another run, which took this one for dead: to be called before anything that cannot be done twice.
    """
    with _lease(dataset / LOCK_FILE, dataset) if is_remote(dataset) else _flock(dataset) as require_held:
        yield require_held


@contextlib.contextmanager
def _flock(dataset: Path) -> Iterator[Callable[[], None]]:
    path = dataset / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise _held(dataset, file.read().strip() or "unknown") from error
        file.truncate(0)
        with naming_full_disk(path):
            os.write(file.fileno(), f"{_own_name()}\n".encode())
        _sweep(dataset)
        try:
            yield lambda: None
        finally:
            _sweep(dataset)


def _sweep(dataset: Path) -> None:
    for litter in dataset.rglob(f".*{TEMPORARY_SUFFIX}"):
        litter.unlink(missing_ok=True)


@contextlib.contextmanager
def _lease(path: UPath, dataset: UPath) -> Iterator[Callable[[], None]]:
    own = uuid.uuid4().hex
    _take(path, dataset, own)
    released, lost = threading.Event(), threading.Event()

    def renew() -> None:
        renewed = time.monotonic()
        while not released.wait(_RENEWED_EVERY_S):
            with contextlib.suppress(Exception):  # a store that does not answer now may do so the next time
                if _holder(path).get("id") != own:
                    lost.set()
                    return
                path.write_bytes(_content(own))
                renewed = time.monotonic()
            if time.monotonic() - renewed > _STALE_AFTER_S - _RENEWED_EVERY_S:
                lost.set()
                return

    def require_held() -> None:
        if lost.is_set():
            raise JobError(f"{dataset}: the lock was lost to another run, or to a store that did not answer; rerun")

    renewal = threading.Thread(target=renew, daemon=True)
    renewal.start()
    try:
        yield require_held
    finally:
        released.set()
        renewal.join()
        if _holder(path).get("id") == own:
            path.unlink(missing_ok=True)


def _take(path: UPath, dataset: UPath, own: str) -> None:
    """Create the lock object, which only one of several runs can; a dead run's is removed first."""
    if holder := _holder(path):
        # Watched, not held against a clock: clocks of different machines differ.
        until = time.monotonic() + _STALE_AFTER_S
        while time.monotonic() < until:
            time.sleep(1)
            if (now := _holder(path)) and now != holder:
                raise _held(dataset, now["who"])
        if _holder(path) != holder:  # another run, watching too, was quicker
            raise _held(dataset, "begun just now")
        path.unlink(missing_ok=True)
    try:
        path.fs.pipe_file(path.path, _content(own), mode="create")
    except FileExistsError as error:
        raise _held(dataset, _holder(path).get("who", "unknown")) from error


def _holder(path: UPath) -> dict:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}


def _content(own: str) -> bytes:
    return json.dumps({"id": own, "who": _own_name(), "renewed": uuid.uuid4().hex}).encode()


def _own_name() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _held(dataset: Location, holder: str) -> JobError:
    return JobError(f"{dataset}: another run is writing here ({holder}); wait for it, or stop it")
