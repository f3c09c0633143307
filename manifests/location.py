"""Where corpora and datasets are stored: one path type for folders and for object stores (s3://, gs://).

Everything here works on `UPath` (pathlib's interface over fsspec) and on a plain `Path`.
"""

import contextlib
import errno
import fnmatch
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from typing_extensions import TypeIs
from upath import UPath

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.scratch import scratch_folder

Location = UPath | Path
# By default S3's client tries 3 times, which is too few if a store throttles for a moment.
_OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 10}}}}
# Bytes per request if only a few places of an object are read: a header rarely needs a second request.
_REMOTE_BLOCK = 1 << 16
_SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}


@dataclass
class Skipped:
    """What `walk` leaves out: `unreadable`, folders without read permission, and `irregular`, what is neither file nor
    folder (pipes, sockets, devices)."""

    unreadable: list[str] = field(default_factory=list)
    irregular: list[str] = field(default_factory=list)


def location(path: Location | str) -> Location:
    """Return the absolute path of a folder, or of a prefix in an object store.

    Listings of an object store are never cached, because other machines write there. Raises `ManifestError` if the
    package for this kind of store is not installed.
    """
    # A local path becomes a `Path`: UPath takes a colon in a name (`Mozart:`, `live::take2.wav`) for a protocol.
    if not re.match(r"[A-Za-z][\w+.-]*://", str(path)):
        return Path(str(path)).absolute()
    try:
        parsed = UPath(path)
        if parsed.protocol in ("file", "local"):
            return Path(parsed.path).absolute()
        remote = UPath(str(parsed), use_listings_cache=False, **_OPTIONS.get(parsed.protocol, {}))
        _ = remote.fs  # imports the store's package
        return remote
    except (ImportError, ValueError) as error:
        raise ManifestError(f"{path}: {error}; object stores need pip install 'whisper-gpt[s3]' or [gs]") from error


def is_remote(path: Location) -> TypeIs[UPath]:
    """Return whether `path` is in an object store."""
    return not isinstance(path, Path)


def is_file(path: Location) -> bool:
    """Return whether `path` is a file. Unlike `path.is_file()`, raises if the object store does not answer."""
    return _kind(path) == "file" if is_remote(path) else path.is_file()


def is_folder(path: Location) -> bool:
    """Return whether `path` is a folder, or a prefix with anything below it; see `is_file`."""
    return _kind(path) == "directory" if is_remote(path) else path.is_dir()


def is_system_name(name: str) -> bool:
    """Return whether `name` is a file or folder that an operating system or a file server creates for itself."""
    return name.startswith(("._", ".DS_Store")) or name.lower() in _SYSTEM_NAMES


def list_files(root: Location) -> dict[str, int]:
    """Return path and size of the files below `root`, sorted, as `walk` yields them. Raises `ManifestError` if a folder
    cannot be read."""
    skipped = Skipped()
    files = dict(sorted(walk(root, (), skipped)))
    if skipped.unreadable:
        raise ManifestError(f"{root}/{skipped.unreadable[0]}: cannot be read; make it readable, or move it away")
    return files


def walk(root: Location, exclude: Sequence[str], skipped: Skipped) -> Iterator[tuple[str, int]]:
    """Yield path and size in bytes of each file below `root`, except hidden files, system files and matches of
    `exclude`, one folder after another.

    Paths are relative, with forward slashes. A pattern in `exclude` is compared with the name and with the path, where
    * matches slashes too. Links to folders are followed, but each folder is listed once; a dangling or circular link
    has size 0. If `root` does not exist, nothing is yielded. Raises `ManifestError` if a folder cannot be read for a
    reason other than its permissions.
    """

    def is_skipped(path: str) -> bool:
        name = path.rpartition("/")[2]
        return name.startswith(".") or is_system_name(name) or _matches(path, exclude)

    if is_remote(root):
        prefix = len(root.path.rstrip("/")) + 1
        found = root.fs.find(root.path, detail=True)
        for full in sorted(found, key=lambda full: full.rpartition("/")[::2]):
            if not any(map(is_skipped, _with_parents(full[prefix:]))):
                yield full[prefix:], found[full]["size"]
    elif root.is_dir():
        yield from _walk(str(root), "", is_skipped, {os.path.realpath(root)}, skipped)


def is_excluded(path: str, exclude: Sequence[str]) -> bool:
    """Return whether a pattern in `exclude` matches `path` or one of its parent folders."""
    return any(_matches(part, exclude) for part in _with_parents(path))


@contextlib.contextmanager
def local_copy(root: Location, path: str) -> Iterator[Path]:
    """Yield a local file with the content of `path` below `root`: the file itself, or a temporary copy."""
    if not is_remote(root):
        yield Path(root) / path
        return
    with scratch_folder() as folder:
        copy = folder / f"copy{Path(path).suffix}"
        with root.fs.open(_key(root, path), "rb") as remote, copy.open("wb") as file:
            shutil.copyfileobj(remote, file, 1 << 22)
        yield copy


def open_below(root: Location, path: str) -> BinaryIO:
    """Open the file that `walk` yields as `path`; works for any file name."""
    if is_remote(root):
        return root.fs.open(_key(root, path), "rb", block_size=_REMOTE_BLOCK)
    return (Path(root) / path).open("rb")


def open_for_seeking(path: Location) -> BinaryIO:
    """Open a file to read a few places in it, such as a header or a footer."""
    if is_remote(path):
        return path.fs.open(path.path, "rb", block_size=_REMOTE_BLOCK)
    return path.open("rb")


def file_sha256(path: Location) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _matches(path: str, patterns: Sequence[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _with_parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[: i + 1]) for i in range(len(parts)))


def _key(root: UPath, path: str) -> str:
    return f"{root.path.rstrip('/')}/{path}"


def _kind(path: UPath) -> str:
    try:
        return path.fs.info(path.path)["type"]
    except FileNotFoundError:
        return ""


def _walk(
    root: str, below: str, is_skipped: Callable[[str], bool], seen: set[str], skipped: Skipped
) -> Iterator[tuple[str, int]]:
    """Yield the files of the folder `below` of `root`, then those of its folders; `seen` holds the real paths of listed
    folders."""
    try:
        with os.scandir(f"{root}/{below}") as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError as error:
        if below and error.errno in (errno.EACCES, errno.EPERM):
            skipped.unreadable.append(below)
            return
        raise ManifestError(f"{root}/{below}: {error.strerror}; make it readable, or move it away") from error
    folders: list[tuple[str, str]] = []
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if is_skipped(path):
            continue
        try:
            status = entry.stat()
        except OSError:  # a dangling or circular link: opening it reports the error
            yield path, 0
            continue
        if stat.S_ISREG(status.st_mode):
            yield path, status.st_size
        elif stat.S_ISDIR(status.st_mode):
            folders.append((path, entry.path))
        else:
            skipped.irregular.append(path)
    for path, full in folders:
        if (real := os.path.realpath(full)) not in seen:
            seen.add(real)
            yield from _walk(root, path, is_skipped, seen, skipped)
