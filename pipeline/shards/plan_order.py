"""The order of a plan: sources shuffled by a hash, and cut into shards. They may be more than fit into memory.

`Sorter` distributes the sources over files by the beginning of their hash; each file is then sorted in memory.
"""

import contextlib
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from pathlib import Path

import numpy as np
import pyarrow as pa

from whisper_gpt.pipeline.audio import AudioInfo
from whisper_gpt.pipeline.corpora.recording import SPLITS
from whisper_gpt.pipeline.shards.plan import PLAN, SOURCES, PlanSettings, source_columns
from whisper_gpt.pipeline.shards.source import Source
from whisper_gpt.pipeline.shards.tar import shard_name

# Between these sizes, in MB, a corpus is cut into about a thousand shards, or into fewer that hold as many recordings
# as a worker encodes at once, but not into fewer than `_LEAST_SHARDS`, as they are what workers share. Larger shards
# would make a lost machine lose more work, smaller ones mean more files.
_SHARDS, _LEAST_SHARDS, _LEAST_MB, _MOST_MB = 1000, 64, 8, 128
_AT_ONCE = 8  # recordings
_BUCKETS = 64  # files per split
_WAITING = 64  # sources per file that wait in memory
_HASH = pa.field("hash", pa.binary(32))
_HASHED = SOURCES.append(_HASH)


@dataclass(frozen=True)
class Totals:
    """Of each split: samples of the readable sources by sampling rate, and the number of (un)readable sources."""

    samples: Mapping[str, Counter[int]]
    readable: Counter[str]
    unreadable: Counter[str]

    def mean_s(self, speed: float) -> float:
        """Return the mean seconds of a readable source, played `speed` times as fast."""
        total = fsum(self._readable_s(split, speed) for split in SPLITS)
        return total / self.readable.total() if self.readable.total() else 0.0

    def seconds(self, split: str, speed: float) -> float:
        """Return the seconds of a split, in which an unreadable source counts as the mean of the readable ones."""
        return self._readable_s(split, speed) + self.unreadable[split] * self.mean_s(speed)

    def _readable_s(self, split: str, speed: float) -> float:
        # Samples are summed as integers, so that the order of the sources does not matter.
        return fsum(samples / rate / speed for rate, samples in sorted(self.samples.get(split, {}).items()))


class Sorter:
    """Takes sources in any order, and yields the rows of their plan; folder `scratch` holds them meanwhile."""

    def __init__(self, scratch: Path, corpus: str):
        self._scratch, self._corpus = scratch, corpus
        self._waiting: dict[tuple[str, int], list[tuple[bytes, Source]]] = defaultdict(list)
        self._writers: dict[tuple[str, int], pa.ipc.RecordBatchStreamWriter] = {}
        self._files = contextlib.ExitStack()
        self.totals = Totals({split: Counter() for split in SPLITS}, Counter(), Counter())

    def add(self, source: Source) -> None:
        """Take a source."""
        split, totals = source.recording.split, self.totals
        if isinstance(source.info, AudioInfo):
            totals.samples[split][source.info.sample_rate] += source.info.frames
            totals.readable[split] += 1
        else:
            totals.unreadable[split] += 1
        digest = hashlib.sha256(source.recording.id.encode()).digest()
        bucket = split, digest[0] * _BUCKETS // 256
        self._waiting[bucket].append((digest, source))
        if len(self._waiting[bucket]) == _WAITING:
            self._write(bucket)

    def planned(self, settings: PlanSettings, first_shards: Mapping[str, int] | None = None) -> Iterator[pa.Table]:
        """Assign every source to a shard; yield the plan, one row per source, in the order of the shards. Call it once.

        Within a split the sources are ordered by a hash of their id, so that each shard is a random sample of the
        corpus, and cut into shards of equal duration, as many as `shard_mb` requires. A source is never split between
        shards. A source with an unreadable header is planned with the mean duration of the others: it fails, and is
        recorded, when its shard is made. `first_shards` gives the first shard number of each split (default 0).
        """
        for bucket in list(self._waiting):
            self._write(bucket)
        self._files.close()
        speed = settings.speed
        assumed_s = self.totals.mean_s(speed)
        for split in SPLITS:
            total_s = self.totals.seconds(split, speed)
            cut = _Cut(total_s, _shards(total_s, settings), (first_shards or {}).get(split, 0))
            for number in range(_BUCKETS):
                if (split, number) not in self._writers:
                    continue
                rows = self._read((split, number))
                seconds = _seconds(rows, speed, assumed_s)
                cut, numbers = cut.after(seconds)
                yield _with_shards(rows, seconds, [shard_name(split, number) for number in numbers])

    def _write(self, bucket: tuple[str, int]) -> None:
        digests, sources = zip(*self._waiting.pop(bucket), strict=True)
        if bucket not in self._writers:
            writer = pa.ipc.new_stream(str(self._path(bucket)), _HASHED)
            self._writers[bucket] = self._files.enter_context(writer)
        hashes = pa.array(digests, _HASH.type)
        columns = source_columns(sources, self._corpus).columns
        self._writers[bucket].write_batch(pa.RecordBatch.from_arrays([*columns, hashes], schema=_HASHED))

    def _read(self, bucket: tuple[str, int]) -> pa.Table:
        """Read and remove a file; return its rows in the order of their hashes."""
        path = self._path(bucket)
        with pa.ipc.open_stream(str(path)) as reader:
            rows = reader.read_all()
        path.unlink()
        return rows.combine_chunks().sort_by(_HASH.name).drop_columns(_HASH.name)

    def _path(self, bucket: tuple[str, int]) -> Path:
        return self._scratch / f"{bucket[0]}-{bucket[1]}.arrows"


def suited_shard_mb(totals: Totals, settings: PlanSettings) -> float:
    """Return the size of shards in MB that suits a corpus, if the settings leave it open."""
    if settings.shard_mb is not None:
        return settings.shard_mb
    seconds = fsum(totals.seconds(split, settings.speed) for split in SPLITS)
    full = min(_AT_ONCE * totals.mean_s(settings.speed), seconds / _LEAST_SHARDS)
    megabytes = settings.bytes_of(max(seconds / _SHARDS, full)) / 1e6
    return float(min(_MOST_MB, max(_LEAST_MB, round(megabytes))))


@dataclass(frozen=True)
class _Cut:
    """A position in the cut of a split of `total_s` into `shards` of equal duration, by the middle of each source,
    without empty shards: the number of the next shard, the seconds before it, and the last cut."""

    total_s: float
    shards: int
    next_shard: int
    elapsed_s: float = 0.0
    last_cut: int = -1

    def after(self, seconds: np.ndarray) -> tuple["_Cut", list[int]]:
        """Return the position after sources of `seconds` `[n]`, and the numbers of their shards."""
        ends = np.cumsum(np.concatenate(([self.elapsed_s], seconds)))
        middles = ends[:-1] + seconds / 2
        cuts = (middles / self.total_s * self.shards).astype(np.int64) if self.total_s else np.zeros(len(seconds), int)
        numbers = self.next_shard - 1 + np.cumsum(np.diff(cuts, prepend=self.last_cut) != 0)
        after = replace(self, next_shard=int(numbers[-1]) + 1, elapsed_s=float(ends[-1]), last_cut=int(cuts[-1]))
        return after, numbers.tolist()


def _shards(seconds: float, settings: PlanSettings) -> int:
    assert settings.shard_mb is not None  # `suited_shard_mb` was asked
    return max(1, round(settings.bytes_of(seconds) / (settings.shard_mb * 1e6)))


def _seconds(rows: pa.Table, speed: float, assumed_s: float) -> np.ndarray:
    """Return the planned seconds of each row: of its header, or `assumed_s` if that is unreadable."""
    rates, frames = rows["sample_rate"].to_numpy(), rows["frames"].to_numpy()
    return np.where(rates > 0, frames / np.maximum(rates, 1) / speed, assumed_s)


def _with_shards(rows: pa.Table, seconds: np.ndarray, shards: Sequence[str]) -> pa.Table:
    added = {"shard": pa.array(shards, pa.string()), "seconds": pa.array(seconds, pa.float64())}
    return pa.table([added[field.name] if field.name in added else rows[field.name] for field in PLAN], schema=PLAN)
