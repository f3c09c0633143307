"""Deterministic tar shards: the same samples give the same bytes, on any machine, at any time.

USTAR headers with no clock, no user and no host in them; any tar reader and WebDataset read them.
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
    """Where a member's data lies within its shard, in bytes, and what it hashes to."""

    offset: int
    size: int
    sha256: str


@dataclass(frozen=True)
class Mark:
    """A place in a shard to roll back to: how many bytes lie before it, and their hash so far."""

    bytes: int
    digest: "hashlib._Hash"


class ShardWriter:
    """Writes samples to a seekable binary `file` as a tar; `mark`/`rollback` take a failed recording out again."""

    def __init__(self, file: BufferedRandom | BytesIO):
        self._file = file
        self._digest = hashlib.sha256()

    def add(self, sample: Sample) -> dict[str, Span]:
        """Append the members of `sample` → the span of each, by the first part of its extension."""
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
        """A position to roll back to."""
        return Mark(self._file.tell(), self._digest.copy())

    def rollback(self, mark: Mark) -> None:
        """Remove everything added since `mark`."""
        self._file.seek(mark.bytes)
        self._file.truncate()
        self._digest = mark.digest.copy()

    def close(self) -> str:
        """Write the end of the archive → sha256 of the whole shard. The file itself stays open.

        Raises `PipelineError` where the file does not hold what was written to it.
        """
        end = self._file.tell() + 2 * _BLOCK
        self._write(bytes(2 * _BLOCK + -end % tarfile.RECORDSIZE))
        self._file.seek(0)
        if hashlib.file_digest(self._file, "sha256").digest() != self._digest.digest():
            raise PipelineError("a shard was changed by something else while it was written; rerun to make it again")
        return self._digest.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)


def shard_name(split: str, index: int) -> str:
    """`train-000000`: the shard's file name without its extension, unique in the dataset."""
    return f"{split}-{index:06d}"


def shard_path(dataset: Location, split: str, shard: str) -> Location:
    """Where a shard lies in a dataset folder."""
    return dataset / split / f"{shard}.tar"
