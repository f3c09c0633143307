"""Atomic publishing: a file is either not there, or whole."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from upath import UPath

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.full_disk import naming_full_disk
from whisper_gpt.manifests.location import Location, file_sha256, is_remote
from whisper_gpt.manifests.scratch import scratch_folder

TEMPORARY_SUFFIX = ".tmp"
_UPLOADS = 3


@contextmanager
def publishing(path: Location) -> Iterator[BufferedRandom]:
    """Open a temporary file for writing and reading; on success it becomes `path`, in one step.

    Local: a file beside `path`, synced and renamed. In an object store: a file of this machine, put there in one piece
    and read back. Where the block raises, nothing is published and the temporary file is removed. Raises
    `ManifestError` for a full disk.
    """
    if is_remote(path):
        with _uploading(path) as file:
            yield file
    else:
        with naming_full_disk(path), _renaming(path) as file:
            yield file


def publish_bytes(path: Location, data: bytes) -> None:
    """Write `data` to `path` in one atomic step."""
    with publishing(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make renames within `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def linked(old: Path, new: Path) -> bool:
    """Make `new` a hard link to the file `old`, in one atomic step; False where the file system does not let us."""
    new.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(new)
    try:
        os.link(old, aside)
    except OSError:  # another file system, or one without links
        return False
    aside.replace(new)
    sync_folder(new.parent)
    return True


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")


@contextmanager
def _renaming(path: Path) -> Iterator[BufferedRandom]:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    try:
        with aside.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def _uploading(path: UPath) -> Iterator[BufferedRandom]:
    with scratch_folder() as folder:
        aside = folder / path.name
        with aside.open("w+b") as file:
            yield file
        _upload(aside, path)


def _upload(file: Path, path: UPath) -> None:
    """Put `file` at `path` and read it back. (The store's client has its own retries; these are for what it let pass.)

    Raises `ManifestError` where the store keeps holding something else.
    """
    wanted = file_sha256(file)
    for _ in range(_UPLOADS):
        path.fs.put_file(str(file), path.path)
        if file_sha256(path) == wanted:
            return
    raise ManifestError(f"{path}: uploaded {_UPLOADS} times, and each time the store gave back something else")
