"""A lock for one run at a time per dataset; also removes stale temporary files of killed runs."""

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
    """Lock `dataset` for the length of a block; remove stale temporary files of killed runs and workers around it.

    Raises `JobError` if a live run holds the lock. In a folder it is the operating system's (flock), and is released
    when its process ends, in whatever way. In an object store it is an object that its run renews every few seconds; if
    it does not change within 20 s, its run is taken for dead. Yields a function that raises `JobError` if the lock was
    lost to another run, which took this one for dead; call it before anything that must not be done twice.
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
            os.write(file.fileno(), f"{_process_name()}\n".encode())
        _clean_up(dataset)
        try:
            yield lambda: None
        finally:
            _clean_up(dataset)


def _clean_up(dataset: Path) -> None:
    for stale in dataset.rglob(f".*{TEMPORARY_SUFFIX}"):
        stale.unlink(missing_ok=True)


@contextlib.contextmanager
def _lease(path: UPath, dataset: UPath) -> Iterator[Callable[[], None]]:
    lease_id = uuid.uuid4().hex
    _acquire(path, dataset, lease_id)
    released, lost = threading.Event(), threading.Event()

    def renew() -> None:
        renewed = time.monotonic()
        while not released.wait(_RENEWED_EVERY_S):
            with contextlib.suppress(Exception):  # a store that does not answer now may answer next time
                if _holder(path).get("id") != lease_id:
                    lost.set()
                    return
                path.write_bytes(_content(lease_id))
                renewed = time.monotonic()
            if time.monotonic() - renewed > _STALE_AFTER_S - _RENEWED_EVERY_S:
                lost.set()
                return

    def require_held() -> None:
        if lost.is_set():
            raise JobError(f"{dataset}: the lock was lost, to another run or because the store did not answer; rerun")

    renewal = threading.Thread(target=renew, daemon=True)
    renewal.start()
    try:
        yield require_held
    finally:
        released.set()
        renewal.join()
        if _holder(path).get("id") == lease_id:
            path.unlink(missing_ok=True)


def _acquire(path: UPath, dataset: UPath, lease_id: str) -> None:
    """Create the lock object, which succeeds for only one of several runs; remove a dead run's first."""
    if holder := _holder(path):
        # Watch for changes instead of comparing times: clocks of different machines differ.
        until = time.monotonic() + _STALE_AFTER_S
        while time.monotonic() < until:
            time.sleep(1)
            if (current := _holder(path)) and current != holder:
                raise _held(dataset, current["who"])
        if _holder(path) != holder:  # another run, watching too, was faster
            raise _held(dataset, "started just now")
        path.unlink(missing_ok=True)
    try:
        path.fs.pipe_file(path.path, _content(lease_id), mode="create")
    except FileExistsError as error:
        raise _held(dataset, _holder(path).get("who", "unknown")) from error


def _holder(path: UPath) -> dict:
    try:
        # In one request: opening a file asks for its version first, and fails if the holder renews the lock in between.
        return json.loads(path.fs.cat_file(path.path))
    except FileNotFoundError:
        return {}


def _content(lease_id: str) -> bytes:
    return json.dumps({"id": lease_id, "who": _process_name(), "renewed": uuid.uuid4().hex}).encode()


def _process_name() -> str:
    return f"process {os.getpid()} on {platform.node()}"


def _held(dataset: Location, holder: str) -> JobError:
    return JobError(f"{dataset}: another run is writing here ({holder}); wait for it, or stop it")
