"""Download parts of LibriSpeech or MAESTRO, check and unpack them; a rerun continues, or does nothing.

The archives come from the official addresses, or a mirror, and are checked against the published SHA-256.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from rich.console import Console
from tyro.conf import Positional, arg

from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import progress_line, status_console
from whisper_gpt.jobs.downloading.fetch import fetch
from whisper_gpt.jobs.downloading.unpack import unpack
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.corpora.archives import ARCHIVES, Archive

_ARCHIVES = ".downloads"  # folder of the archives, until they are unpacked


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt download`."""

    corpus: Positional[Literal["librispeech", "maestro"]]
    """Corpus to download."""
    parts: Positional[Annotated[tuple[str, ...], arg(metavar="[PART …]")]] = ()
    """Parts of the corpus, such as dev-clean, or midi. The message that none is named lists them."""
    to: Path = field(kw_only=True)
    """Folder to unpack into; LibriSpeech becomes the folder LibriSpeech in it, MAESTRO maestro-v3.0.0."""
    mirror: str | None = None
    """Address of a folder with the same archives, to be used instead of the official ones."""
    keep_archives: bool = False
    """Keep the archives after they are unpacked, in TO/.downloads."""


def run(config: Config) -> int:
    """Download what is missing; return exit code 0."""
    archives, console = ARCHIVES[config.corpus], status_console()
    listing = ", ".join(f"{part} ({_gb(archive.size)})" for part, archive in archives.items())
    require(bool(config.parts), f"name the parts of {config.corpus} to download: {listing}")
    mirror_is_url = config.mirror is None or config.mirror.startswith(("http://", "https://"))
    require(mirror_is_url, f"--mirror {config.mirror}: must begin with http:// or https://")
    for part in config.parts:
        require(part in archives, f"{part}: not a part of {config.corpus}; its parts are {listing}")
    wanted = {part: archives[part] for part in dict.fromkeys(config.parts)}
    config.to.mkdir(parents=True, exist_ok=True)
    with output_lock(config.to / _ARCHIVES):
        missing = {part: archive for part, archive in wanted.items() if not _is_unpacked(config.to, part, archive)}
        _require_space(config, missing)
        for part, archive in missing.items():
            _download(config, part, archive, console)
    folder = config.to / archives[config.parts[0]].folder
    console.print(f"{folder}: {', '.join(wanted)}; next: whisper-gpt preprocess {config.corpus} {folder} --out DATASET")
    return 0


def _download(config: Config, part: str, archive: Archive, console: Console) -> None:
    path, state = config.to / _ARCHIVES / archive.file, _state_file(config.to, part, archive)
    mirrors = archive.mirrors if config.mirror is None else (config.mirror.rstrip("/"),)
    with _bytes_progress(console, f"downloading {archive.file}", archive.size) as show:
        fetch([f"{mirror}/{archive.file}" for mirror in mirrors], path, archive.sha256, show)
    state.unlink(missing_ok=True)  # a part that is unpacked again is incomplete meanwhile
    with _bytes_progress(console, f"unpacking {archive.file}", archive.unpacked_size) as show:
        unpack(path, config.to, show)
    os.sync()  # the state file must not survive a power cut that the unpacked files do not
    publish_bytes(state, json.dumps({"sha256": archive.sha256}).encode())
    if not config.keep_archives:
        path.unlink()


def _is_unpacked(to: Path, part: str, archive: Archive) -> bool:
    state = _state_file(to, part, archive)
    there = (to / archive.folder / archive.content).is_dir()
    return there and state.is_file() and json.loads(state.read_text())["sha256"] == archive.sha256


def _state_file(to: Path, part: str, archive: Archive) -> Path:
    """Return the file that says that a part is unpacked; it goes when the corpus goes."""
    return to / archive.folder / f".downloaded-{part}.json"


def _require_space(config: Config, missing: dict[str, Archive]) -> None:
    """Raise `JobError` if archives and unpacked files will not fit on the disk. An archive is removed before the next
    is downloaded, unless it is to be kept."""
    needed, kept = 0, 0
    for archive in missing.values():
        path = config.to / _ARCHIVES / archive.file
        have = max((p.stat().st_size for p in (path, path.with_name(f"{path.name}.part")) if p.is_file()), default=0)
        to_come = max(0, archive.size - have)
        needed = max(needed, kept + to_come + archive.unpacked_size)
        kept += archive.unpacked_size + (to_come if config.keep_archives else -have)
    free = shutil.disk_usage(config.to).free
    if needed > free:
        raise JobError(
            f"{config.to}: {_gb(needed)} are needed and {_gb(free)} are free; free some, or name fewer parts"
        )


@contextmanager
def _bytes_progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    with progress_line(console, total) as line:
        first: tuple[float, int] | None = None

        def show(done: int) -> None:
            nonlocal first
            first = first or (time.monotonic(), done)
            speed = (done - first[1]) / max(1e-9, time.monotonic() - first[0])
            text = f"{what}, {_gb(done)} of {_gb(total)} · {speed / 1e6:.1f} MB/s"
            line(done, text, max(0, total - done) / max(speed, 1.0))

        yield show


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"
