"""The rows of one split, held against what `dataset.json` says of it."""

from collections.abc import Sequence

import pyarrow as pa

from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.location import Location


def require_samples(dataset: Location, info: DatasetInfo, split: str) -> None:
    """Raises `ManifestError`, naming the splits that have some, for a split without samples."""
    if split not in info.splits or not info.splits[split].samples:
        there = ", ".join(name for name, totals in info.splits.items() if totals.samples) or "none"
        raise ManifestError(f"{dataset} has no samples in the split {split}; the splits that have some: {there}")


def read_split(dataset: Location, info: DatasetInfo, split: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The manifest's rows of `split` (all columns, or those named), in the order of the shards.

    Raises `ManifestError` where the dataset has no such split, or its manifest has lost some of it.
    """
    require_samples(dataset, info, split)
    table = read_samples(dataset, split, columns)
    if table.num_rows != info.splits[split].samples:
        missing = f"{table.num_rows} of the {info.splits[split].samples} samples"
        raise ManifestError(f"{dataset}: the manifest of {split} holds {missing}; see whisper-gpt verify {dataset}")
    return table
