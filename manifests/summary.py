"""Everything that `inspect` reports about a dataset, collected once for its three outputs: text, JSON and HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from whisper_gpt.manifests.dataset_info import DatasetInfo, SplitTotals, add_up, read_info
from whisper_gpt.manifests.failures import open_failures
from whisper_gpt.manifests.fragments import read_records, read_samples
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.statistics import (
    DURATION_EDGES_S,
    LEVEL_EDGES_DBFS,
    CodeUsage,
    FailureGroup,
    Group,
    Histogram,
    code_usage,
    failure_groups,
    groups,
    histogram,
)

_COLUMNS = ("duration_s", "peak_dbfs", "rms_dbfs", "clipped_share", "speaker", "composer")


@dataclass(frozen=True)
class Summary:
    """The content of a dataset, and the codec and mel it was made with."""

    corpus: str
    fingerprint: str
    codec: dict[str, Any]
    mel: dict[str, Any]
    segment_s: float
    splits: dict[str, SplitTotals]
    speakers: list[Group]
    composers: list[Group]
    durations_s: Histogram
    peak_dbfs: Histogram
    rms_dbfs: Histogram
    samples_clipped: int
    codes: list[CodeUsage]
    failures: list[FailureGroup]
    failed_sources: int
    failed_seconds: float
    absent_sources: int
    treatments: list[dict[str, Any]]  # unusual ones: speed, resampler, degradation

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain JSON types; the infinite last edge of a histogram becomes null."""
        content = asdict(self)
        for name in ("durations_s", "peak_dbfs", "rms_dbfs"):
            edges = content[name]["edges"]
            content[name]["edges"] = [None if edge == float("inf") else edge for edge in edges]
        return content


def treatments_text(treatments: Sequence[Mapping[str, Any]]) -> str:
    """Describe how sources were treated, such as `speed 1.1, degradation mp3`; empty if all as usual."""
    described = [", ".join(f"{name} {value}" for name, value in changes.items()) for changes in treatments]
    return "; ".join(text or "as usual" for text in described) if any(described) else ""


def summarise(dataset: Location) -> Summary:
    """Read the records, manifest and failures of `dataset`. Raises `ManifestError` if it is not a dataset."""
    info: DatasetInfo = read_info(dataset)
    samples = read_samples(dataset, columns=_COLUMNS)
    counts = add_up(read_records(dataset)).code_counts
    return Summary(
        corpus=info.corpus,
        fingerprint=info.fingerprint,
        codec=info.codec,
        mel=info.mel,
        segment_s=info.segment_frames * info.codec["hop_samples"] / info.codec["sample_rate"],
        splits=info.splits,
        speakers=groups(samples, "speaker"),
        composers=groups(samples, "composer"),
        durations_s=histogram(samples["duration_s"], DURATION_EDGES_S),
        peak_dbfs=histogram(samples["peak_dbfs"], LEVEL_EDGES_DBFS),
        rms_dbfs=histogram(samples["rms_dbfs"], LEVEL_EDGES_DBFS),
        samples_clipped=pc.sum(pc.greater(samples["clipped_share"], 0)).as_py() or 0,
        codes=code_usage(counts) if counts is not None else [],
        failures=failure_groups(open_failures(dataset)),
        failed_sources=info.failed_sources,
        failed_seconds=info.failed_seconds,
        absent_sources=info.absent_sources,
        treatments=info.treatments,
    )
