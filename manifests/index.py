"""The index of a split: what a loader needs of the manifest, in one Arrow file that is mapped into memory.

It is derived from the fragments and holds the hash of the shards that it was made from. A reader uses it only if
`dataset.json` has the same hash, and reads the fragments otherwise: the result is the same, but with a million samples
or more it takes longer and more memory.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import fragment_path, listed_shards, read_columns, split_of
from whisper_gpt.manifests.iteration import map_ahead
from whisper_gpt.manifests.location import Location, is_file, is_remote, open_for_seeking
from whisper_gpt.manifests.publish import publishing
from whisper_gpt.manifests.schema import SAMPLES
from whisper_gpt.manifests.splits import read_split, require_samples

INDEX_FOLDER = "index"
COLUMNS = (
    *("key", "shard", "frames", "codebooks", "mel_bands", "codes_offset", "codes_size"),
    *("mel_offset", "mel_size", "mel_variants_offset", "mel_variants_size"),
)
_HASH_KEY = b"whisper_gpt_shards_sha256"
_BATCH_ROWS = 1 << 16
_READERS = 8
_SCHEMA = pa.schema([SAMPLES.field(name) for name in COLUMNS])
_ADVICE = "remove it and rerun preprocess"


def index_path(dataset: Location, split: str) -> Location:
    """Return the path of a split's index."""
    return dataset / INDEX_FOLDER / f"{split}.arrow"


def publish_indexes(dataset: Location, info: DatasetInfo) -> None:
    """Write the index of every split that has samples, unless it is up to date; a few batches are in memory at once."""
    for split in _splits(info):
        path = index_path(dataset, split)
        with contextlib.suppress(ManifestError):  # a damaged one is replaced
            if _is_current(path, info):
                continue
        schema = _SCHEMA.with_metadata({_HASH_KEY: info.shards_sha256})
        with publishing(path) as file, pa.ipc.new_file(file, schema) as writer:
            for batch in _batches(dataset, split):
                writer.write_table(batch)


def read_index(dataset: Location, info: DatasetInfo, split: str) -> pa.Table:
    """Return `COLUMNS` of a split's manifest rows, in the order of the shards: memory-mapped if the index is local.

    Raises `ManifestError` if the dataset has no such split, if rows are missing, or if the index is damaged.
    """
    require_samples(dataset, info, split)
    path = index_path(dataset, split)
    if not _is_current(path, info):
        return read_split(dataset, info, split, COLUMNS)
    table = _read(path)
    with _named(path):
        _check_strings(table)
    if table.num_rows != info.splits[split].samples:
        raise ManifestError(f"{path}: {table.num_rows} rows, not {info.splits[split].samples}; {_ADVICE}")
    return table


def wrong_indexes(dataset: Location, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    """Compare each index that would be used with the fragments, batch by batch; yield its file and what is wrong."""
    for split in _splits(info):
        name = f"{INDEX_FOLDER}/{split}.arrow"
        try:
            path = index_path(dataset, split)
            if not _is_current(path, info):
                continue
            table = _read(path)
            with _named(path):
                table.validate(full=True)
            if not _is_equal(table, _batches(dataset, split)):
                yield name, f"differs from the manifest; {_ADVICE}"
        except ManifestError as error:
            yield name, str(error)


def _is_equal(stored: pa.Table, batches: Iterator[pa.Table]) -> bool:
    begin = 0
    for batch in batches:
        if not stored.slice(begin, batch.num_rows).equals(batch):
            return False
        begin += batch.num_rows
    return begin == stored.num_rows


def _splits(info: DatasetInfo) -> Sequence[str]:
    return [split for split, totals in info.splits.items() if totals.samples]


def _batches(dataset: Location, split: str) -> Iterator[pa.Table]:
    """Yield a split's rows in tables of about `_BATCH_ROWS`. Raises `ManifestError` if a fragment cannot be read.

    Not by Arrow's scanner of many files, which reads far ahead of a slower caller: gigabytes for millions of rows.
    """
    shards = sorted(shard for shard in listed_shards(dataset) if split_of(shard) == split)
    waiting: list[pa.Table] = []
    rows = 0
    for table in map_ahead(lambda shard: read_columns(fragment_path(dataset, shard), COLUMNS), shards, _READERS):
        waiting.append(table)
        rows += table.num_rows
        if rows >= _BATCH_ROWS:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting, rows = [], 0
    if rows:
        yield pa.concat_tables(waiting).combine_chunks()


def _is_current(path: Location, info: DatasetInfo) -> bool:
    """Return whether there is an index that was made from the shards of `info`. Raises `ManifestError` if the file is
    damaged."""
    if not info.shards_sha256 or not is_file(path):  # datasets of earlier versions have no hash
        return False
    with _named(path), open_for_seeking(path) as file, pa.ipc.open_file(file) as reader:
        return (reader.schema.metadata or {}).get(_HASH_KEY, b"").decode() == info.shards_sha256


def _read(path: Location) -> pa.Table:
    """Read an index, mapped if it is local. Raises `ManifestError` if it is damaged."""
    with _named(path):
        source = pa.BufferReader(path.read_bytes()) if is_remote(path) else pa.memory_map(str(Path(path)))
        table = pa.ipc.open_file(source).read_all()
        table.validate()
        return table


def _check_strings(table: pa.Table) -> None:
    """Raise `ArrowInvalid` if an offset of a string is wrong, which would end the process when the string is read.

    Unlike a full validation this does not read the strings themselves, which are most of a mapped index.
    """
    for name in ("key", "shard"):
        for chunk in table[name].chunks:
            offsets = np.frombuffer(chunk.buffers()[1], np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
            if (np.diff(offsets) < 0).any():
                raise pa.ArrowInvalid(f"the offsets of {name} are not in order")


@contextlib.contextmanager
def _named(path: Location) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{path}: not a complete index ({error}); {_ADVICE}") from error
