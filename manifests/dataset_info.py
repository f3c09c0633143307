"""`dataset.json`: what a dataset is, what it was made with, and its totals per split."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import ShardRecord
from whisper_gpt.manifests.location import Location, is_file

SPLITS: tuple[str, ...] = ("train", "validation", "test")
FILE_NAME = "dataset.json"
FORMAT = "whisper-gpt dataset 3"


@dataclass(frozen=True)
class SplitTotals:
    """What one split holds."""

    samples: int
    seconds: float
    frames: int
    shards: int


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`.

    `codec` and `mel` are their fingerprints, `fingerprint` the hash of both; `mel_mean` and `mel_std` `[V, M]` are
    those of each view of the mel, over the training split or (where there is none) all splits. `plans_sha256` are the
    hashes of the plan's parts, in their order.
    """

    corpus: str
    fingerprint: str
    codec: dict[str, Any]
    mel: dict[str, Any]
    segment_frames: int
    plans_sha256: list[str]
    splits: dict[str, SplitTotals]
    failed_sources: int
    failed_seconds: float
    absent_sources: int
    mel_mean: list[list[float]]
    mel_std: list[list[float]]


@dataclass
class Totals:
    """Sums over the records of a dataset; `mel_sums` float64 `[2, V, M]` and `frames` are by split."""

    splits: dict[str, SplitTotals]
    mel_sums: dict[str, np.ndarray]
    code_counts: np.ndarray | None

    def mel_statistics(self) -> tuple[list[list[float]], list[list[float]]]:
        """Mean and standard deviation `[V, M]` of the mel over the training split (over all where it is empty)."""
        frames = {split: totals.frames for split, totals in self.splits.items() if totals.frames}
        own = ["train"] if "train" in frames else list(frames)
        if not own:
            return [], []
        total, squares = np.sum([self.mel_sums[split] for split in own], axis=0) / sum(frames[split] for split in own)
        deviation = np.sqrt(np.maximum(squares - total**2, 1e-8))
        return total.round(6).tolist(), deviation.round(6).tolist()


def add_up(records: Iterable[ShardRecord]) -> Totals:
    """The totals of `records`, of which one is held at a time; splits in the order train, validation, test."""
    sums: dict[str, SplitTotals] = {}
    mel_sums: dict[str, np.ndarray] = {}
    code_counts = None
    for r in records:
        own = sums.get(r.split, SplitTotals(0, 0.0, 0, 0))
        sums[r.split] = SplitTotals(
            own.samples + r.samples, own.seconds + r.seconds, own.frames + r.frames, own.shards + (r.samples > 0)
        )
        mel_sums[r.split] = mel_sums[r.split] + r.mel_sums if r.split in mel_sums else r.mel_sums
        code_counts = r.code_counts if code_counts is None else code_counts + r.code_counts
    splits = {split: replace(sums[split], seconds=round(sums[split].seconds, 6)) for split in SPLITS if split in sums}
    return Totals(splits, mel_sums, code_counts)


def info_bytes(info: DatasetInfo) -> bytes:
    """The file's content; equal infos give equal bytes."""
    return (json.dumps({"format": FORMAT, **asdict(info)}, indent=1) + "\n").encode()


def read_info(dataset: Location) -> DatasetInfo:
    """Read `dataset.json`. Raises `ManifestError` where there is none, or it is not one of ours."""
    path = dataset / FILE_NAME
    if not is_file(path):
        unfinished = is_file(dataset / "plan.parquet")
        advice = "its preprocessing has not finished, rerun it" if unfinished else "is this the folder of a dataset?"
        raise ManifestError(f"{path}: no such file; {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if content.pop("format") != FORMAT:
            raise ManifestError(f"{path}: not of the format {FORMAT!r}; made by another version of whisper-gpt")
        splits = {name: SplitTotals(**totals) for name, totals in content.pop("splits").items()}
        return DatasetInfo(splits=splits, **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: not a dataset description ({error})") from error


def differences(
    codec: dict[str, Any], mel: dict[str, Any], other_codec: dict[str, Any], other_mel: dict[str, Any]
) -> list[str]:
    """What differs between two datasets' codecs and mels, a line each: `mel.bands 64 / 80`."""
    return [
        f"{what}.{name} {own.get(name)!r} / {other.get(name)!r}"
        for what, own, other in (("codec", codec, other_codec), ("mel", mel, other_mel))
        for name in sorted(own.keys() | other.keys())
        if own.get(name) != other.get(name)
    ]
