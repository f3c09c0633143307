"""Unpack a tar.gz or a zip into a folder: only plain files and folders, none outside."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from whisper_gpt.jobs.common.errors import JobError


class _Member(NamedTuple):
    name: str
    size: int
    plain: bool  # a file or a folder, not a link or a device
    content: IO[bytes] | None  # None for a folder


def unpack(archive: Path, folder: Path, show: Callable[[int], None]) -> None:
    """Unpack `archive` into `folder`, over files that are there; `show` is called with the bytes written so far.

    Raises `JobError` at a member that is a link or a device, or whose path leads out of `folder`, or if the archive is
    damaged.
    """
    written = 0
    try:
        with _members(archive) as members:
            for member in members:
                target = _target(archive, folder, member)
                if member.content is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with member.content, target.open("wb") as file:
                    shutil.copyfileobj(member.content, file, 1 << 20)
                written += member.size
                show(written)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error) as error:
        raise JobError(f"{archive}: damaged ({error}); remove it and rerun") from error


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as packed:
            yield (
                _Member(
                    info.filename,
                    info.file_size,
                    stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG, stat.S_IFDIR),
                    None if info.is_dir() else packed.open(info),
                )
                for info in packed.infolist()
            )
    else:
        with tarfile.open(archive, "r|gz") as packed:
            yield (
                _Member(
                    info.name,
                    info.size,
                    info.isfile() or info.isdir(),
                    packed.extractfile(info) if info.isfile() else None,
                )
                for info in packed
            )


def _target(archive: Path, folder: Path, member: _Member) -> Path:
    path = PurePosixPath(member.name)
    if not member.plain or path.is_absolute() or ".." in path.parts or "\\" in member.name:
        raise JobError(
            f"{archive}: {member.name!r} is a link, a device, or outside of the folder; not unpacked further"
        )
    return folder / path
