"""Atomic publishing: a file is either not there, or whole."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

TEMPORARY_SUFFIX = ".tmp"


@contextmanager
def publishing(path: Path) -> Iterator[BufferedRandom]:
    """Open a temporary file beside `path` for writing and reading; on success fsync it and rename it to `path`.

    Where the block raises, nothing is published and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{TEMPORARY_SUFFIX}")
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


def publish_bytes(path: Path, data: bytes) -> None:
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
