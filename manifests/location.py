"""Where corpora and datasets lie: a folder, or a prefix in an object store (s3://, gs://), by one kind of path.

Everything here works on `UPath`, which is pathlib's interface over fsspec; a plain `Path` does as well.
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
# S3's client by itself tries three times, which a store that slows down for a moment outlasts.
_OPTIONS: dict[str, dict[str, Any]] = {"s3": {"config_kwargs": {"retries": {"mode": "standard", "max_attempts": 10}}}}
# What one request fetches of an object that is read here and there: a header rarely needs a second one.
_REMOTE_BLOCK = 1 << 16
_SYSTEM_NAMES = {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "@eadir"}


@dataclass
class Listing:
    """The files below a folder or prefix, by their path from there (with forward slashes, sorted) → size in bytes.

    A link to nothing, or in a circle, has size 0. `unreadable`: folders that may not be read; `irregular`: what is
    neither file nor folder (pipes, sockets, devices).
    """

    files: dict[str, int] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    irregular: list[str] = field(default_factory=list)


def location(path: Location | str) -> Location:
    """The absolute path of a folder, or of a prefix in an object store, whose listings are never taken from a cache:
    other machines write there. Raises `ManifestError` for a kind of store whose package is not installed."""
    # A local path is a plain one: UPath takes a colon in a name (`Mozart:`, `live::take2.wav`) for a protocol.
    if not re.match(r"[A-Za-z][\w+.-]*://", str(path)):
        return Path(str(path)).absolute()
    try:
        found = UPath(path)
        if found.protocol in ("file", "local"):
            return Path(found.path).absolute()
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


def is_system_name(name: str) -> bool:
    """Whether an operating system or a file server made the file or folder `name` for itself."""
    return name.startswith(("._", ".DS_Store")) or name.lower() in _SYSTEM_NAMES


def list_files(root: Location) -> dict[str, int]:
    """The `Listing.files` of `root`. Raises `ManifestError` for a folder that cannot be read."""
    listing = list_below(root)
    if listing.unreadable:
        raise ManifestError(f"{root}/{listing.unreadable[0]}: cannot be read; make it readable, or move it away")
    return listing.files


def list_below(root: Location, exclude: Sequence[str] = ()) -> Listing:
    """What is below `root`, without what is hidden, the system's own, or matches a pattern in `exclude` (by its name or
    by its path from `root`, in which * stands for slashes too).

    Links to folders are followed, each folder once. Where nothing is, the listing is empty. Raises `ManifestError` for
    a folder that cannot be read for another reason than its permissions.
    """

    def passed_over(path: str) -> bool:
        name = path.rpartition("/")[2]
        return name.startswith(".") or is_system_name(name) or _matches(path, exclude)

    listing = Listing()
    if is_remote(root):
        prefix = len(root.path.rstrip("/")) + 1
        for full, entry in sorted(root.fs.find(root.path, detail=True).items()):
            if not any(map(passed_over, _with_parents(full[prefix:]))):
                listing.files[full[prefix:]] = entry["size"]
    elif root.is_dir():
        _walk(str(root), "", passed_over, {os.path.realpath(root)}, listing)
        listing.files = dict(sorted(listing.files.items()))
    return listing


def is_excluded(path: str, exclude: Sequence[str]) -> bool:
    """Whether `list_below` leaves out `path`, or a folder that it lies in, for a pattern in `exclude`."""
    return any(_matches(own, exclude) for own in _with_parents(path))


@contextlib.contextmanager
def local_copy(root: Location, path: str) -> Iterator[Path]:
    """A file on this machine with the content of `path` below `root`: itself, or a copy for the length of the block."""
    if not is_remote(root):
        yield Path(root) / path
        return
    with scratch_folder() as folder:
        copy = folder / f"copy{Path(path).suffix}"
        with root.fs.open(_key(root, path), "rb") as remote, copy.open("wb") as file:
            shutil.copyfileobj(remote, file, 1 << 22)
        yield copy


def open_below(root: Location, path: str) -> BinaryIO:
    """Open the file that `list_below` found as `path`, whatever its name is like."""
    if is_remote(root):
        return root.fs.open(_key(root, path), "rb", block_size=_REMOTE_BLOCK)
    return (Path(root) / path).open("rb")


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


def _walk(root: str, below: str, passed_over: Callable[[str], bool], seen: set[str], listing: Listing) -> None:
    """Add to `listing` what is in the folder `below` of `root`; `seen` has the real path of every folder so far."""
    try:
        with os.scandir(f"{root}/{below}") as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        if below and error.errno in (errno.EACCES, errno.EPERM):
            listing.unreadable.append(below)
            return
        raise ManifestError(f"{root}/{below}: {error.strerror}; make it readable, or move it away") from error
    for entry in entries:
        path = f"{below}/{entry.name}" if below else entry.name
        if passed_over(path):
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nothing, or in a circle: whoever opens it finds out
            listing.files[path] = 0
            continue
        if stat.S_ISREG(status.st_mode):
            listing.files[path] = status.st_size
        elif not stat.S_ISDIR(status.st_mode):
            listing.irregular.append(path)
        elif (real := os.path.realpath(entry.path)) not in seen:
            seen.add(real)
            _walk(root, path, passed_over, seen, listing)
