"""Shards of object stores on this machine's disk: fetched whole, checked against their hash, the least used dropped.

Files are named after their content, so that ranks, runs and datasets share them. A lock file per shard lets one process
fetch while the others wait for it, and keeps the shard there until it is mapped; once mapped, its bytes stay readable
even when the file is dropped.
"""

import hashlib
import mmap
import os
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from whisper_gpt.manifests.full_disk import naming_full_disk
from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.errors import ShardError

_BLOCK = 1 << 20
_ATTEMPTS = 2


def default_cache_folder() -> Path:
    """`$WHISPER_GPT_CACHE`, or the user's own folder for such things."""
    own = os.environ.get("WHISPER_GPT_CACHE")
    return Path(own) if own else Path(platformdirs.user_cache_dir("whisper-gpt")) / "shards"


class ShardCache:
    """A folder of about `limit_bytes` of shards: those being fetched come on top, and a dropped one's bytes stay on the
    disk for as long as a reader has it mapped."""

    def __init__(self, folder: Path, limit_bytes: int):
        self._folder = folder
        self._limit = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def map(self, shard: Location, sha256: str) -> memoryview:
        """The bytes of `shard`, mapped into memory; fetched first where they are not here.

        Raises `ShardError` where the store does not give the bytes that `sha256` names, fetched twice.
        """
        path = self._folder / f"{sha256}.tar"
        with self._lock(path):
            if path.exists():
                os.utime(path)
            else:
                self._download(shard, sha256, path)
            with path.open("rb") as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self._evict()
        return mapped

    def fetch(self, shard: Location, sha256: str) -> None:
        """Have `shard` here for a later `map`. Raises as that one does."""
        path = self._folder / f"{sha256}.tar"
        with self._lock(path):
            if not path.exists():
                self._download(shard, sha256, path)
        self._evict()

    def _download(self, shard: Location, sha256: str, path: Path) -> None:
        part = path.with_suffix(".part")
        for attempt in range(_ATTEMPTS):
            try:
                if _copy(shard, part) == sha256:
                    part.replace(path)
                    return
            except OSError:
                if attempt + 1 == _ATTEMPTS:
                    raise
        part.unlink()
        raise ShardError(f"{shard}: not the bytes that its manifest names, fetched twice; run whisper-gpt verify")

    def _evict(self) -> None:
        """Drop the shards that were longest not mapped, until the rest fits; those being fetched or mapped stay."""
        files = [(path, _stat(path)) for path in self._folder.iterdir() if path.suffix in (".tar", ".part")]
        there = sorted((stat.st_mtime_ns, stat.st_size, path) for path, stat in files if stat)
        held = sum(size for _, size, _ in there)
        for _, size, path in there:
            if held <= self._limit:
                return
            try:
                with self._lock(path, wait=False):
                    path.unlink(missing_ok=True)
            except Timeout:
                continue
            held -= size

    def _lock(self, path: Path, wait: bool = True) -> FileLock:
        return FileLock(path.with_suffix(".lock"), blocking=wait)


def _copy(shard: Location, path: Path) -> str:
    """Copy a shard to the local `path` → its SHA-256."""
    digest = hashlib.sha256()
    with naming_full_disk(path), shard.open("rb") as remote, path.open("wb") as file:
        while block := remote.read(_BLOCK):
            digest.update(block)
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
