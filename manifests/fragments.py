"""Fragments: one Parquet file a shard, written last, so that its being there says that the shard is whole.

The rows are the shard's samples; the footer holds the `ShardRecord`: the shard's hash and the sums from which a whole
dataset's statistics are added up without reading a single tar.
"""

import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from manifests.errors import ManifestError
from manifests.schema import FAILURES, SAMPLES

MANIFEST_FOLDER = "manifest"
FAILURES_FOLDER = "failures"
_RECORD_KEY, _SUMS_KEY, _COUNTS_KEY = (
    b"whisper_gpt_shard",
    b"whisper_gpt_mel_sums",
    b"whisper_gpt_code_counts",
)


@dataclass(frozen=True)
class ShardRecord:
    """What a fragment says of its shard as a whole.

    `mel_sums` float64 `[2, M]`: sums of the mel values and of their squares; `code_counts` int64 `[K, codebook_size]`.
    """

    shard: str
    split: str
    sha256: str
    size_bytes: int
    fingerprint: str
    samples: int
    frames: int
    seconds: float
    mel_sums: np.ndarray
    code_counts: np.ndarray


def fragment_bytes(rows: Sequence[dict], record: ShardRecord) -> bytes:
    """The fragment of one shard as a Parquet file; equal input gives equal bytes."""
    plain = {k: v for k, v in vars(record).items() if k not in ("mel_sums", "code_counts")}
    metadata = {
        _RECORD_KEY: json.dumps(plain | {"code_shape": record.code_counts.shape}, sort_keys=True).encode(),
        _SUMS_KEY: record.mel_sums.astype("<f8").tobytes(),
        _COUNTS_KEY: zlib.compress(record.code_counts.astype("<i8").tobytes(), 6),
    }
    return _parquet_bytes(pa.Table.from_pylist(list(rows), schema=SAMPLES.with_metadata(metadata)))


def failures_bytes(rows: Sequence[dict]) -> bytes:
    """The failures of one shard as a Parquet file."""
    return _parquet_bytes(pa.Table.from_pylist(list(rows), schema=FAILURES))


def fragment_path(dataset: Path, shard: str) -> Path:
    """Where the fragment of a shard lies."""
    return dataset / MANIFEST_FOLDER / f"{shard}.parquet"


def failures_path(dataset: Path, shard: str) -> Path:
    """Where the failures of a shard lie, if there were any."""
    return dataset / FAILURES_FOLDER / f"{shard}.parquet"


def committed_shards(dataset: Path) -> set[str]:
    """The shards of `dataset` that are whole: a readable fragment, and a tar of the length that it says."""
    whole = set()
    for path in (dataset / MANIFEST_FOLDER).glob("*.parquet"):
        try:
            record = read_record(path)
        except ManifestError:
            continue
        tar = dataset / record.split / f"{record.shard}.tar"
        if tar.is_file() and tar.stat().st_size == record.size_bytes:
            whole.add(path.stem)
    return whole


def read_record(path: Path) -> ShardRecord:
    """The record in a fragment's footer. Raises `ManifestError` for a file that is not a fragment."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        plain = json.loads(metadata[_RECORD_KEY])
        shape = plain.pop("code_shape")
        return ShardRecord(
            **plain,
            mel_sums=np.frombuffer(metadata[_SUMS_KEY], "<f8").reshape(2, -1),
            code_counts=np.frombuffer(zlib.decompress(metadata[_COUNTS_KEY]), "<i8").reshape(shape),
        )
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError, zlib.error) as error:
        raise _broken(path, error) from error


def read_fragment(path: Path) -> tuple[ShardRecord, list[dict]]:
    """A fragment's record and rows. Raises `ManifestError` for a file that is not a whole fragment."""
    record = read_record(path)
    try:
        return record, pq.read_table(path, schema=SAMPLES).to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise _broken(path, error) from error


def read_records(dataset: Path) -> list[ShardRecord]:
    """The records of all whole shards, by name."""
    return [read_record(path) for path in sorted((dataset / MANIFEST_FOLDER).glob("*.parquet"))]


def read_samples(dataset: Path, split: str | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """The manifest's rows, of one split or of all, ordered by shard and place within it.

    Raises `ManifestError` where the dataset has no manifest or a fragment cannot be read.
    """
    pattern = f"{split}-*.parquet" if split else "*.parquet"
    return _read_folder(dataset, MANIFEST_FOLDER, pattern, SAMPLES, columns)


def read_failures(dataset: Path, shard: str = "*") -> pa.Table:
    """The failure rows of one shard or of all, ordered by shard."""
    return _read_folder(dataset, FAILURES_FOLDER, f"{shard}.parquet", FAILURES)


def _broken(path: Path, error: Exception) -> ManifestError:
    return ManifestError(f"{path}: not a whole manifest fragment ({error}); remove it and rerun preprocess")


def _read_folder(
    dataset: Path, folder: str, pattern: str, schema: pa.Schema, columns: Sequence[str] | None = None
) -> pa.Table:
    paths = sorted(str(path) for path in (dataset / folder).glob(pattern))
    if not paths:
        return pa.Table.from_pylist([], schema=schema).select(list(columns or schema.names))
    try:
        return pads.dataset(paths, schema=schema, format="parquet").to_table(columns=list(columns or schema.names))
    except (pa.ArrowInvalid, OSError) as error:
        raise ManifestError(f"{dataset / folder}: a file cannot be read ({error}); see whisper-gpt verify") from error


def _parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()
