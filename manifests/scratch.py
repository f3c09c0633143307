"""Folders on this machine's own disk for files on their way to or from an object store."""

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
    """A new folder for the length of the block. Raises `ManifestError` where there is no place for it or its files."""
    try:
        folder = tempfile.TemporaryDirectory(prefix=f"{_prefix()}{os.getpid()}-")
    except OSError as error:
        raise ManifestError(f"no place for temporary files on {platform.node()}: {error.strerror or error}") from error
    with folder as name, naming_full_disk(Path(name)):
        yield Path(name)


def sweep_scratch() -> None:
    """Remove the folders of processes of this machine that are no more: killed ones leave theirs."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_prefix()}*"):
        process = folder.name.removeprefix(_prefix()).partition("-")[0]
        if process.isdecimal() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def _prefix() -> str:
    return f"whisper-gpt-{platform.node()}-"
