"""Fragments: one Parquet file per shard, written last, so that its existence means that the shard is complete.

The rows are the shard's samples. The footer holds the `ShardRecord`: the shard's hash, and the sums that give the
statistics of a whole dataset without reading a single tar.
"""

import base64
import contextlib
import fnmatch
import io
import json
import zlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.iteration import map_ahead
from whisper_gpt.manifests.location import Location, is_remote, list_files, open_for_seeking
from whisper_gpt.manifests.schema import SAMPLES

MANIFEST_FOLDER = "manifest"
_READERS = 16
_FOOTER_BYTES = 1 << 15  # more than most footers
_UNREADABLE = (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError, zlib.error)
_RECORD_KEY, _SUMS_KEY, _COUNTS_KEY = (
    b"whisper_gpt_shard",
    b"whisper_gpt_mel_sums",
    b"whisper_gpt_code_counts",
)
_SHAPES = {"mel_shape": "mel_sums", "code_shape": "code_counts"}


@dataclass(frozen=True)
class ShardRecord:
    """What a fragment records about its shard as a whole.

    `plan_sha256` is the hash of the plan's part that holds the shard, `fingerprint` the dataset's. If none of a shard's
    sources could be used, it has no tar: 0 bytes and an empty hash. `mel_sums` float64 `[2, V, M]`: sums of the values
    and of their squares, per mel variant and band. `code_counts` int64 `[K, codebook_size]`.
    """

    shard: str
    split: str
    sha256: str
    size_bytes: int
    fingerprint: str
    plan_sha256: str
    samples: int
    frames: int
    seconds: float
    mel_sums: np.ndarray
    code_counts: np.ndarray


def fragment_bytes(samples: pa.Table, record: ShardRecord) -> bytes:
    """Return the fragment of one shard as a Parquet file; equal input gives equal bytes."""
    plain = {k: v for k, v in vars(record).items() if k not in _SHAPES.values()}
    plain |= {name: vars(record)[array].shape for name, array in _SHAPES.items()}
    metadata = {
        _RECORD_KEY: json.dumps(plain, sort_keys=True).encode(),
        # Base64, because Parquet metadata is text, and some readers (polars) refuse a file with anything else.
        _SUMS_KEY: base64.b64encode(record.mel_sums.astype("<f8").tobytes()),
        _COUNTS_KEY: base64.b64encode(zlib.compress(record.code_counts.astype("<i8").tobytes(), 6)),
    }
    return parquet_bytes(samples.cast(SAMPLES).replace_schema_metadata(metadata))


def split_of(shard: str) -> str:
    """Return the split in a shard's name."""
    return shard.rpartition("-")[0]


def fragment_path(dataset: Location, shard: str) -> Location:
    """Return the path of a shard's fragment."""
    return dataset / MANIFEST_FOLDER / f"{shard}.parquet"


def committed_shards(dataset: Location, plans: Collection[str] | None = None) -> set[str]:
    """Return the complete shards of `dataset`: those with a valid fragment and a tar of the length it records.

    With `plans` (the hashes of the plan's parts), only shards that were made for one of them.
    """
    sizes = list_files(dataset)

    def is_complete(path: Location) -> bool:
        footer = _footer(path)
        try:
            plain = _plain(_metadata(footer))
            if plans is not None and plain["plan_sha256"] not in plans:
                return False
            return plain["size_bytes"] == sizes.get(f"{plain['split']}/{plain['shard']}.tar", 0)
        except _UNREADABLE:
            return False

    paths = [dataset / name for name in sizes if fnmatch.fnmatch(name, f"{MANIFEST_FOLDER}/*.parquet")]
    with ThreadPoolExecutor(_READERS) as pool:
        return {path.stem for path, complete in zip(paths, pool.map(is_complete, paths), strict=True) if complete}


def listed_shards(dataset: Location) -> set[str]:
    """Return the shards that have a fragment, valid or not."""
    names = list_files(dataset / MANIFEST_FOLDER)
    return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet")}


def read_record(path: Location) -> ShardRecord:
    """Read the record in a fragment's footer. Raises `ManifestError` if the file is not a fragment."""
    footer = _footer(path)
    try:
        metadata = _metadata(footer)
        plain = _plain(metadata)
        shapes = {array: plain.pop(name) for name, array in _SHAPES.items()}
        return ShardRecord(
            **plain,
            mel_sums=_array(base64.b64decode(metadata[_SUMS_KEY]), "<f8", shapes["mel_sums"]),
            code_counts=_array(zlib.decompress(base64.b64decode(metadata[_COUNTS_KEY])), "<i8", shapes["code_counts"]),
        )
    except _UNREADABLE as error:
        raise _broken(path, error) from error


def read_fragment(path: Location) -> tuple[ShardRecord, pa.Table]:
    """Read a fragment's record and samples. Raises `ManifestError` if the file is not a complete fragment."""
    record, data = read_record(path), path.read_bytes()
    try:
        return record, pq.read_table(io.BytesIO(data), schema=SAMPLES)
    except (pa.ArrowInvalid, OSError) as error:
        raise _broken(path, error) from error


def read_columns(path: Location, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a fragment, without its metadata. Raises `ManifestError` if it is not a fragment."""
    try:
        with open_for_seeking(path) as file:
            table = pq.read_table(file, columns=list(columns))
        return table.cast(pa.schema([SAMPLES.field(name) for name in columns]))
    except (pa.ArrowInvalid, OSError, ValueError, KeyError) as error:
        raise _broken(path, error) from error


def read_records(dataset: Location) -> Iterator[ShardRecord]:
    """Yield the records of all shards, sorted by name; threads read some of them ahead."""
    shards = sorted(listed_shards(dataset))
    yield from map_ahead(lambda shard: read_record(fragment_path(dataset, shard)), shards, _READERS)


def read_samples(dataset: Location, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the manifest's rows, of one split or of all, ordered by shard and position in it.

    Raises `ManifestError` if a fragment cannot be read.
    """
    pattern = f"{split}-*.parquet" if split else "*.parquet"
    return read_table(joined(dataset, MANIFEST_FOLDER, pattern, SAMPLES), columns)


def take_samples(dataset: Location, rows: Sequence[int]) -> pa.Table:
    """Read some rows of the manifest by their numbers. Raises `ManifestError` if a fragment cannot be read."""
    with _naming_damage():
        return joined(dataset, MANIFEST_FOLDER, "*.parquet", SAMPLES).take(list(rows))


def joined(dataset: Location, folder: str, pattern: str, schema: pa.Schema) -> pads.Dataset:
    """Return the Parquet files of `folder` that match `pattern`, sorted by name, as one table that is not read yet."""
    names = fnmatch.filter(list_files(dataset / folder), pattern)
    if not names:
        return pads.dataset(pa.Table.from_pylist([], schema=schema))
    root, filesystem = (dataset.path, dataset.fs) if is_remote(dataset) else (str(dataset), None)
    return pads.dataset([f"{root}/{folder}/{name}" for name in names], schema, "parquet", filesystem)


def read_table(data: pads.Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the rows of `joined` files. Raises `ManifestError` if a file cannot be read."""
    with _naming_damage():
        return data.to_table(columns=list(columns or data.schema.names))


def parquet_bytes(table: pa.Table) -> bytes:
    """Return `table` as a Parquet file; equal tables give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


@contextlib.contextmanager
def _naming_damage() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"a file of the dataset cannot be read ({error}); see whisper-gpt verify") from error


def _footer(path: Location) -> bytes:
    """Return the end of a Parquet file with its whole footer. Read errors propagate: they do not mean damage."""
    with open_for_seeking(path) as file:
        size = file.seek(0, io.SEEK_END)
        tail = _read_end(file, size, _FOOTER_BYTES)
        footer = int.from_bytes(tail[-8:-4], "little") + 8
        return tail if footer <= len(tail) else _read_end(file, size, footer)


def _read_end(file: BinaryIO, size: int, count: int) -> bytes:
    file.seek(max(0, size - count))
    return file.read()


def _metadata(footer: bytes) -> dict[bytes, bytes]:
    return pq.read_schema(pa.BufferReader(footer)).metadata or {}


def _plain(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """Return the fields of a record that are not arrays, and the shapes of the arrays."""
    return json.loads(metadata[_RECORD_KEY])


def _array(data: bytes, dtype: str, shape: list[int]) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape)


def _broken(path: Location, error: Exception) -> ManifestError:
    return ManifestError(f"{path}: not a complete manifest fragment ({error}); remove it and rerun preprocess")
