"""Read the manifest rows of one split, and check their number against `dataset.json`."""

from collections.abc import Sequence

import pyarrow as pa

from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.location import Location


def require_samples(dataset: Location, info: DatasetInfo, split: str) -> None:
    """Raise `ManifestError` if `split` has no samples; the message lists the splits that have."""
    if split not in info.splits or not info.splits[split].samples:
        available = ", ".join(name for name, totals in info.splits.items() if totals.samples) or "none"
        raise ManifestError(f"{dataset} has no samples in the split {split}; splits with samples: {available}")


def read_split(dataset: Location, info: DatasetInfo, split: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the manifest rows of `split` (all columns, or `columns`), in the order of the shards.

    Raises `ManifestError` if the dataset has no such split, or if rows are missing.
    """
    require_samples(dataset, info, split)
    table = read_samples(dataset, split, columns)
    if table.num_rows != info.splits[split].samples:
        count = f"{table.num_rows} of the {info.splits[split].samples} samples"
        raise ManifestError(f"{dataset}: the manifest of {split} holds {count}; see whisper-gpt verify {dataset}")
    return table
