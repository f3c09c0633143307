"""Compute `dataset.json` of a finished dataset from its fragments and failures."""

from typing import Any

from whisper_gpt.manifests.dataset_info import DatasetInfo, add_up
from whisper_gpt.manifests.failures import open_failures
from whisper_gpt.manifests.fragments import read_records
from whisper_gpt.manifests.location import Location


def describe(
    dataset: Location,
    *,
    corpus: str,
    fingerprint: str,
    codec: dict[str, Any],
    mel: dict[str, Any],
    segment_frames: int,
    plans_sha256: list[str],
    absent_sources: int,
    treatments: list[dict[str, Any]],
) -> DatasetInfo:
    """Return the content of `dataset.json`: the arguments, and the totals over the dataset's fragments and failures."""
    totals, failures = add_up(read_records(dataset)), open_failures(dataset)
    mean, deviation = totals.mel_statistics()
    return DatasetInfo(
        corpus=corpus,
        fingerprint=fingerprint,
        codec=codec,
        mel=mel,
        segment_frames=segment_frames,
        plans_sha256=plans_sha256,
        splits=totals.splits,
        failed_sources=failures.num_rows,
        failed_seconds=round(float(sum(failures["seconds"].to_pylist())), 6),
        absent_sources=absent_sources,
        mel_mean=mean,
        mel_std=deviation,
        shards_sha256=totals.shards_sha256,
        treatments=treatments,
    )
