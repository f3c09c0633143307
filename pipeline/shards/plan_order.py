"""The order of a plan: sources shuffled by a hash, and cut into shards. They may be more than fit into memory."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from whisper_gpt.manifests.database import Rows, attach, database
from whisper_gpt.pipeline.corpora.recording import SPLITS
from whisper_gpt.pipeline.shards.plan import PLAN, ROW_GROUP, PlanSettings
from whisper_gpt.pipeline.shards.tar import shard_name

# Between these sizes, in MB, a corpus is cut into about a thousand shards. Larger shards would make a lost machine lose
# more work, smaller ones mean more files.
_SHARDS, _LEAST_MB, _MOST_MB = 1000, 8, 128


@dataclass(frozen=True)
class _Split:
    """Seconds of the readable sources of a split, at the speed they are played, and the number of unreadable ones."""

    seconds: float
    readable: int
    unreadable: int


def suited_shard_mb(sources: Rows, settings: PlanSettings, scratch: Path) -> float:
    """Return the size of shards in MB that suits a corpus, if the settings leave it open."""
    if settings.shard_mb is not None:
        return settings.shard_mb
    with database(scratch) as connection:
        attach(connection, "sources", sources)
        splits = _totals(connection, settings.speed)
    seconds = sum(split.seconds + split.unreadable * _mean_s(splits) for split in splits.values())
    return float(min(_MOST_MB, max(_LEAST_MB, round(settings.bytes_of(seconds) / _SHARDS / 1e6))))


def planned(
    sources: Rows,
    settings: PlanSettings,
    scratch: Path,
    first_shards: Mapping[str, int] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Assign every source to a shard; yield the plan, one row per source, in the order of the shards.

    `sources` have the columns of `plan.SOURCES`. Within a split they are ordered by a hash of their id, so that each
    shard is a random sample of the corpus, and cut into shards of equal duration, as many as `shard_mb` requires. A
    source is never split between shards. A source with an unreadable header is planned with the mean duration of the
    others: it fails, and is recorded, when its shard is made. `first_shards` gives the first shard number of each split
    (default 0). Folder `scratch` takes what does not fit into memory.
    """
    with database(scratch) as connection:
        attach(connection, "sources", sources)
        splits = _totals(connection, settings.speed)
        assumed_s = _mean_s(splits)
        for split in SPLITS:
            if split not in splits:
                continue
            total_s = splits[split].seconds + splits[split].unreadable * assumed_s
            cut = _Cut(total_s, _shards(total_s, settings), (first_shards or {}).get(split, 0))
            ordered = connection.sql(
                f"SELECT * FROM sources WHERE split = '{split}' ORDER BY sha256(id)"
            ).to_arrow_reader(ROW_GROUP)
            for batch in ordered:
                seconds = _seconds(batch, settings.speed, assumed_s)
                cut, numbers = cut.after(seconds)
                yield _with_shards(batch, seconds, [shard_name(split, number) for number in numbers])


@dataclass(frozen=True)
class _Cut:
    """A position in the cut of a split of `total_s` into `shards` of equal duration, by the middle of each source,
    without empty shards: the seconds before it, the number of the last shard, and the last cut."""

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


def _totals(connection: duckdb.DuckDBPyConnection, speed: float) -> dict[str, _Split]:
    """Add up the table `sources`. The result does not depend on the order of its rows."""
    rows = connection.execute(
        "SELECT split, sample_rate, sum(frames)::BIGINT, count(*) FROM sources GROUP BY ALL ORDER BY ALL"
    ).fetchall()
    return {
        split: _Split(
            seconds=fsum(frames / rate / speed for name, rate, frames, _ in rows if name == split and rate),
            readable=sum(count for name, rate, _, count in rows if name == split and rate),
            unreadable=sum(count for name, rate, _, count in rows if name == split and not rate),
        )
        for split in {name for name, *_ in rows}
    }


def _mean_s(splits: Mapping[str, _Split]) -> float:
    readable = sum(split.readable for split in splits.values())
    return fsum(split.seconds for split in splits.values()) / readable if readable else 0.0


def _seconds(batch: pa.RecordBatch, speed: float, assumed_s: float) -> np.ndarray:
    """Return the planned seconds of each row: of its header, or `assumed_s` if that is unreadable."""
    rates, frames = batch["sample_rate"].to_numpy(), batch["frames"].to_numpy()
    return np.where(rates > 0, frames / np.maximum(rates, 1) / speed, assumed_s)


def _with_shards(batch: pa.RecordBatch, seconds: np.ndarray, shards: Sequence[str]) -> pa.RecordBatch:
    added = {"shard": pa.array(shards, pa.string()), "seconds": pa.array(seconds, pa.float64())}
    columns = [added.get(field.name) or batch[field.name].cast(field.type) for field in PLAN]
    return pa.RecordBatch.from_arrays(columns, schema=PLAN)
