"""Scan a corpus into a file: a corpus may have more recordings than fit into memory."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.manifests.database import attach, database
from whisper_gpt.manifests.iteration import batched, map_ahead
from whisper_gpt.manifests.location import Location, is_excluded
from whisper_gpt.pipeline.corpora.recording import Find, Found, Notes, Recording, held_out
from whisper_gpt.pipeline.shards.plan import RECORDING
from whisper_gpt.pipeline.shards.source import Source, examine
from whisper_gpt.pipeline.treatment import USUAL, Treatment, noted

_ROWS = 4096
_READERS = 32
_FOUND = pa.schema([*RECORDING, pa.field("size_bytes", pa.int64(), nullable=False)])


@dataclass(frozen=True)
class Chosen:
    """Which recordings of a corpus become a dataset, and how.

    `hold_out` are the shares of training speakers moved to validation and test. An unusual treatment is noted in each
    recording's `extra`.
    """

    splits: tuple[str, ...]
    hold_out: tuple[float, float] = (0.0, 0.0)
    exclude: Sequence[str] = ()
    treatment: Treatment = USUAL


@dataclass(frozen=True)
class Survey:
    """What a scan found: the recordings with their sizes in the Parquet file `found`, and their number per split."""

    found: Path
    per_split: dict[str, int]
    warnings: list[str]
    absent: dict[str, str]

    def recordings(self) -> Iterator[Found]:
        """Yield the recordings."""
        return recordings_in(self.found)


def recordings_in(file: Path) -> Iterator[Found]:
    """Yield the recordings in a Parquet file, reading a few thousand at a time."""
    for batch in pq.ParquetFile(file).iter_batches(_ROWS):
        for row in batch.to_pylist():
            size = row.pop("size_bytes")
            yield Found(Recording(**row), size)


def scan_corpus(find: Find, name: str, root: Location, chosen: Chosen, file: Path) -> Survey:
    """Write the `chosen` recordings below `root` to the Parquet file `file`.

    Raises `JobError` if there are none, if two have the same id or file, or if speakers are to be held out and none is
    known.
    """
    notes = Notes()
    in_all, kept, speakers = Counter[str](), Counter[str](), False

    def choose() -> Iterator[Found]:
        nonlocal speakers
        for recording, size in find(root, name, chosen.exclude, notes):
            speakers = speakers or (recording.split == "train" and recording.speaker != "")
            recording = held_out(recording, *chosen.hold_out)
            in_all[recording.split] += 1
            if recording.split in chosen.splits:
                kept[recording.split] += 1
                yield Found(replace(recording, extra=noted(recording.extra, chosen.treatment)), size)

    with pq.ParquetWriter(file, _FOUND, compression="zstd") as writer:
        for group in batched(choose(), _ROWS):
            writer.write_batch(_found_rows(group))
    if any(chosen.hold_out) and not speakers:
        raise JobError(f"--hold-out: no training recording of {root} has a known speaker")
    if not kept:
        raise JobError(
            f"{root}: no recording in the splits {', '.join(chosen.splits)}, {in_all.total()} in others; see --splits"
        )
    _refuse_repetition(file)
    absent = {
        path: split
        for path, split in notes.absent.items()
        if split in chosen.splits and not is_excluded(path, chosen.exclude)
    }
    return Survey(file, dict(kept), notes.warnings, absent)


def examine_all(root: Location, found: Iterator[Found]) -> Iterator[Source]:
    """Examine each file, in a few threads, as disk or network are the bottleneck; its size is that of the listing."""

    def examined(item: Found) -> Source:
        return replace(examine(root, item.recording), size_bytes=item.size_bytes)

    yield from map_ahead(examined, found, _READERS)


def _found_rows(found: Sequence[Found]) -> pa.RecordBatch:
    rows = ((*(getattr(item.recording, field.name) for field in RECORDING), item.size_bytes) for item in found)
    columns = [pa.array(column, field.type) for column, field in zip(zip(*rows, strict=True), _FOUND, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=_FOUND)


def _refuse_repetition(found: Path) -> None:
    """Raise `JobError` if two recordings have the same id, which begins their samples' keys, or the same file."""
    with database(found.parent) as connection:
        attach(connection, "found", [found])
        for name in ("id", "path"):
            twice = connection.execute(
                f"SELECT {name}, min(path), max(path) FROM found GROUP BY {name} HAVING count(*) > 1 ORDER BY 1 LIMIT 1"
            ).fetchone()
            if twice and name == "id":
                raise JobError(f"{twice[1]} and {twice[2]} have the same id {twice[0]}; rename one of them")
            if twice:
                raise JobError(f"{twice[0]}: the corpus lists this file twice; remove one of the two")
