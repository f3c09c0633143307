"""Where corpora and datasets lie: a folder, or a prefix in an object store (s3://, gs://), by one kind of path.

Everything here works on `UPath`, which is pathlib's interface over fsspec; a plain `Path` does as well.
"""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import TypeIs
from upath import UPath

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.scratch import scratch_folder

Location = UPath | Path
# S3's client by itself tries three times, which a store that slows down for a moment outlasts.
_OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 10}}}}
# What one request fetches of an object that is read here and there: a header rarely needs a second one.
_REMOTE_BLOCK = 1 << 16


def location(path: Location | str) -> UPath:
    """The absolute path of a folder, or of a prefix in an object store, whose listings are never taken from a cache:
    other machines write there. Raises `ManifestError` for a kind of store whose package is not installed."""
    try:
        found = UPath(path)
        if not is_remote(found):
            return found.absolute()
        remote = UPath(str(found), use_listings_cache=False, **_OPTIONS.get(found.protocol, {}))
        _ = remote.fs  # which imports the package
        return remote
    except (ImportError, ValueError) as error:
        raise ManifestError(f"{path}: {error}; object stores need pip install 'whisper-gpt[s3]' or [gs]") from error


def is_remote(path: Location) -> TypeIs[UPath]:
    """Whether `path` lies in an object store."""
    return not isinstance(path, Path)


def is_file(path: Location) -> bool:
    """Whether a file is there. Unlike `path.is_file()`, raises what an object store raises that does not answer."""
    return _kind(path) == "file" if is_remote(path) else path.is_file()


def is_folder(path: Location) -> bool:
    """Whether a folder, or anything below a prefix, is there; see `is_file`."""
    return _kind(path) == "directory" if is_remote(path) else path.is_dir()


def list_files(root: Location) -> dict[str, int]:
    """Every file below `root`, by its path from there (with forward slashes, sorted) → its size in bytes.

    Links to folders are followed, each folder once; a dangling link has size 0. Where nothing is, the listing is empty.
    Raises `ManifestError` for a folder that cannot be read.
    """
    if is_remote(root):
        prefix = len(root.path.rstrip("/")) + 1
        found = root.fs.find(root.path, detail=True)
        return {path[prefix:]: entry["size"] for path, entry in sorted(found.items())}
    if not root.is_dir():
        return {}
    prefix = len(str(root).rstrip("/")) + 1
    return dict(sorted((entry.path[prefix:], _size(entry)) for entry in _walk(str(root), {os.path.realpath(root)})))


@contextlib.contextmanager
def local_copy(path: Location) -> Iterator[Path]:
    """A file on this machine with the content of `path`: itself, or a copy for the length of the block."""
    if not is_remote(path):
        yield path
        return
    with scratch_folder() as folder:
        copy = folder / f"copy{path.suffix}"
        with path.open("rb") as remote, copy.open("wb") as file:
            shutil.copyfileobj(remote, file, 1 << 22)
        yield copy


def open_for_seeking(path: Location) -> BinaryIO:
    """Open a file of which a few places are to be read: a header, a footer."""
    if is_remote(path):
        return path.fs.open(path.path, "rb", block_size=_REMOTE_BLOCK)
    return path.open("rb")


def file_sha256(path: Location) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _kind(path: UPath) -> str:
    try:
        return path.fs.info(path.path)["type"]
    except FileNotFoundError:
        return ""


def _walk(folder: str, seen: set[str]) -> Iterator[os.DirEntry[str]]:
    """The files below `folder`, whose real path is in `seen` as every folder's is that was walked."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise ManifestError(f"{error.filename}: {error.strerror}; make it readable, or move it away") from error
    for entry in entries:
        if not entry.is_dir():
            yield entry
        elif (real := os.path.realpath(entry.path)) not in seen:
            seen.add(real)
            yield from _walk(entry.path, seen)


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0
