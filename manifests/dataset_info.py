"""`dataset.json`: what a dataset is, what it was made with, and its totals per split."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from manifests.errors import ManifestError
from manifests.fragments import ShardRecord

FILE_NAME = "dataset.json"
FORMAT = "whisper-gpt dataset 1"


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

    `codec` and `mel` are their fingerprints, `fingerprint` the hash of both; `mel_mean` and `mel_std` `[M]` are those
    of the training split, or of all splits where there is none.
    """

    corpus: str
    fingerprint: str
    codec: dict[str, Any]
    mel: dict[str, Any]
    segment_frames: int
    plan_sha256: str
    splits: dict[str, SplitTotals]
    failed_sources: int
    failed_seconds: float
    absent_sources: int
    mel_mean: list[float]
    mel_std: list[float]


def split_totals(records: Sequence[ShardRecord]) -> dict[str, SplitTotals]:
    """Totals per split, in the order train, validation, test."""
    totals = {}
    for split in ("train", "validation", "test"):
        own = [r for r in records if r.split == split]
        if own:
            totals[split] = SplitTotals(
                samples=sum(r.samples for r in own),
                seconds=round(sum(r.seconds for r in own), 6),
                frames=sum(r.frames for r in own),
                shards=len(own),
            )
    return totals


def mel_statistics(records: Sequence[ShardRecord]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation `[M]` of the mel over the training split (over everything where it is empty)."""
    own = [r for r in records if r.split == "train" and r.frames] or [r for r in records if r.frames]
    if not own:
        return [], []
    frames = sum(r.frames for r in own)
    total, squares = np.sum([r.mel_sums for r in own], axis=0) / frames
    deviation = np.sqrt(np.maximum(squares - total**2, 1e-8))
    return [round(float(x), 6) for x in total], [round(float(x), 6) for x in deviation]


def info_bytes(info: DatasetInfo) -> bytes:
    """The file's content; equal infos give equal bytes."""
    return (json.dumps({"format": FORMAT, **asdict(info)}, indent=1) + "\n").encode()


def read_info(dataset: Path) -> DatasetInfo:
    """Read `dataset.json`. Raises `ManifestError` where there is none, or it is not one of ours."""
    path = dataset / FILE_NAME
    if not path.is_file():
        unfinished = (dataset / "plan.parquet").is_file()
        advice = "its preprocessing has not finished, rerun it" if unfinished else "is this the folder of a dataset?"
        raise ManifestError(f"{path}: no such file; {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise ManifestError(f"{path}: not of the format {FORMAT!r}; made by another version of whisper-gpt")
        splits = {name: SplitTotals(**totals) for name, totals in content.pop("splits").items()}
        return DatasetInfo(splits=splits, **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: not a dataset description ({error})") from error
