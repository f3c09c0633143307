"""Deterministic tar shards: the same samples give the same bytes, on any machine, at any time.

The USTAR headers contain no time, user or host; WebDataset and any other tar reader can read them.
"""

import hashlib
import tarfile
from dataclasses import dataclass
from io import BufferedRandom, BytesIO

from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.shards.sample import Sample, pack_members

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True)
class Span:
    """Byte offset and size of a member's data within its shard, and its SHA-256."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Mark:
    """A position in a shard to roll back to: the bytes before it, and their hash."""

    bytes: int
    digest: "hashlib._Hash"


class ShardWriter:
    """Writes samples to a seekable binary `file` as a tar; `mark` and `rollback` remove a failed recording."""

    def __init__(self, file: BufferedRandom | BytesIO):
        self._file = file
        self._digest = hashlib.sha256()

    def add(self, sample: Sample) -> dict[str, Span]:
        """Append the members of `sample`; return their spans by the first part of the extension."""
        spans = {}
        for name, data in pack_members(sample):
            header = tarfile.TarInfo(name)
            header.size = len(data)
            header.mode = 0o444
            self._write(header.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict"))
            member = name.split(".")[1]
            spans[member] = Span(self._file.tell(), len(data), hashlib.sha256(data).hexdigest())
            self._write(data + bytes(-len(data) % _BLOCK))
        return spans

    def mark(self) -> Mark:
        """Return the current position, to roll back to."""
        return Mark(self._file.tell(), self._digest.copy())

    def rollback(self, mark: Mark) -> None:
        """Remove everything added since `mark`."""
        self._file.seek(mark.bytes)
        self._file.truncate()
        self._digest = mark.digest.copy()

    def close(self) -> str:
        """Write the end of the archive; return the SHA-256 of the whole shard. The file stays open.

        Raises `PipelineError` if the file's content is not what was written.
        """
        end = self._file.tell() + 2 * _BLOCK
        self._write(bytes(2 * _BLOCK + -end % tarfile.RECORDSIZE))
        self._file.seek(0)
        if hashlib.file_digest(self._file, "sha256").digest() != self._digest.digest():
            raise PipelineError("another process changed a shard while it was written; rerun to make it again")
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)


def shard_name(split: str, index: int) -> str:
    """Return a shard's file name without extension, unique in the dataset: `train-000000`."""
    return f"{split}-{index:06d}"


def shard_path(dataset: Location, split: str, shard: str) -> Location:
    """Return the path of a shard in a dataset."""
    return dataset / split / f"{shard}.tar"
