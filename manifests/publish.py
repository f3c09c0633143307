"""Atomic publishing: a file either does not exist or is complete."""

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
    """Open a temporary file for writing and reading; on success it becomes `path` in one atomic step.

    Local: a temporary file in the same folder, synced and renamed. Object store: a local file, uploaded in one piece
    and read back. If the block raises, nothing is published and the temporary file is removed. Raises `ManifestError`
    if the disk is full.
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
    """Make `new` a hard link to the file `old`, in one atomic step; return False if the file system cannot."""
    new.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(new)
    try:
        os.link(old, temporary)
    except OSError:  # another file system, or one without links
        return False
    temporary.replace(new)
    sync_folder(new.parent)
    return True


def _temporary_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")


@contextmanager
def _renaming(path: Path) -> Iterator[BufferedRandom]:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_path(path)
    try:
        with temporary.open("w+b") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def _uploading(path: UPath) -> Iterator[BufferedRandom]:
    with scratch_folder() as folder:
        temporary = folder / path.name
        with temporary.open("w+b") as file:
            yield file
        _upload(temporary, path)


def _upload(file: Path, path: UPath) -> None:
    """Upload `file` to `path` and read it back. The store's client retries errors; this retries wrong content.

    Raises `ManifestError` if the content is still wrong after `_UPLOADS` attempts.
    """
    expected = file_sha256(file)
    for _ in range(_UPLOADS):
        path.fs.put_file(str(file), path.path)
        if file_sha256(path) == expected:
            return
    raise ManifestError(f"{path}: uploaded {_UPLOADS} times, and each time the store returned different content")
