"""Temporary local folders for files on their way to or from an object store."""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.full_disk import naming_full_disk


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Create a folder for the duration of the block. Raises `ManifestError` if it cannot be created or is full."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-")
    except OSError as error:
        reason = error.strerror or error
        raise ManifestError(f"cannot create a temporary folder on {platform.node()}: {reason}") from error
    with folder as name, naming_full_disk(Path(name)):
        yield Path(name)


def remove_stale_scratch() -> None:
    """Remove the temporary folders that killed processes of this machine left behind."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        process = folder.name.removeprefix(_prefix()).partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _prefix() -> str:
    return f"whisper-gpt-{platform.node()}-"
