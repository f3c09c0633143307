"""A local disk cache for shards of object stores: whole shards, checked by hash, least recently used evicted first.

Files are named after their content, so that ranks, runs and datasets share them. A lock file per shard lets one process
fetch while the others wait, and protects the shard until it is mapped; a mapped shard stays readable even after its
file is evicted.
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
    """Return `$WHISPER_GPT_CACHE`, or a folder in the user's cache folder."""
    folder = os.environ.get("WHISPER_GPT_CACHE")
    return Path(folder) if folder else Path(platformdirs.user_cache_dir("whisper-gpt")) / "shards"


class ShardCache:
    """A folder with about `limit_bytes` of shards.

    Shards being fetched come on top, and an evicted shard occupies the disk until no reader has it mapped.
    """

    def __init__(self, folder: Path, limit_bytes: int):
        self._folder = folder
        self._limit = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def map(self, shard: Location, sha256: str) -> memoryview:
        """Return the bytes of `shard`, memory-mapped; fetch the shard first if it is not in the cache.

        Raises `ShardError` if the fetched bytes do not match `sha256` in two attempts.
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
        """Fetch `shard` into the cache for a later `map`. Raises as `map` does."""
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
        raise ShardError(f"{shard}: the sha256 differs from the manifest's, fetched twice; run whisper-gpt verify")

    def _evict(self) -> None:
        """Delete the least recently mapped shards until the rest fits, except those being fetched or mapped."""
        files = [(path, _stat(path)) for path in self._folder.iterdir() if path.suffix in (".tar", ".part")]
        oldest_first = sorted((stat.st_mtime_ns, stat.st_size, path) for path, stat in files if stat)
        total = sum(size for _, size, _ in oldest_first)
        for _, size, path in oldest_first:
            if total <= self._limit:
                return
            try:
                with self._lock(path, wait=False):
                    path.unlink(missing_ok=True)
            except Timeout:
                continue
            total -= size

    def _lock(self, path: Path, wait: bool = True) -> FileLock:
        return FileLock(path.with_suffix(".lock"), blocking=wait)


def _copy(shard: Location, path: Path) -> str:
    """Copy a shard to the local `path`; return its SHA-256."""
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
