"""Failures: one row per source that could not be processed, in one Parquet file per shard that has any."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from whisper_gpt.manifests.fragments import MANIFEST_FOLDER, joined, parquet_bytes, read_table
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.schema import FAILURES, SAMPLES

FAILURES_FOLDER = "failures"


def failures_bytes(rows: Sequence[dict]) -> bytes:
    """Return the failures of one shard as a Parquet file."""
    return parquet_bytes(pa.Table.from_pylist(list(rows), schema=FAILURES))


def failures_path(dataset: Location, shard: str) -> Location:
    """Return the path of a shard's failures; the file exists only if there were any."""
    return dataset / FAILURES_FOLDER / f"{shard}.parquet"


def read_failures(dataset: Location, shard: str = "*") -> pa.Table:
    """Read the failure rows of one shard or of all, ordered by shard; there is one row per attempt."""
    return read_table(joined(dataset, FAILURES_FOLDER, f"{shard}.parquet", FAILURES))


def open_failures(dataset: Location) -> pa.Table:
    """Return the last failure of each source for which no later attempt succeeded."""
    failures = read_failures(dataset)
    if not failures.num_rows:
        return failures
    sources = list(zip(failures["corpus"].to_pylist(), failures["source"].to_pylist(), strict=True))
    by_attempt = pc.sort_indices(failures["attempts"]).to_pylist()
    last = {sources[i]: i for i in by_attempt}
    samples = joined(dataset, MANIFEST_FOLDER, "*.parquet", SAMPLES)
    failed = pc.field("source").isin(failures["source"].unique())
    done = samples.to_table(columns=["corpus", "source"], filter=failed)
    for source in zip(done["corpus"].to_pylist(), done["source"].to_pylist(), strict=True):
        last.pop(source, None)
    return failures.take(pa.array(sorted(last.values()), pa.int64()))  # without a type, an empty list is of type null
