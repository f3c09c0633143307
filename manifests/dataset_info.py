"""`dataset.json`: how a dataset was made, and its totals per split."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import ShardRecord
from whisper_gpt.manifests.location import Location, is_file

SPLITS: tuple[str, ...] = ("train", "validation", "test")
FILE_NAME = "dataset.json"
FORMAT = "whisper-gpt dataset 4"


@dataclass(frozen=True)
class SplitTotals:
    """The totals of one split."""

    samples: int
    seconds: float
    frames: int
    shards: int


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`.

    `codec` and `mel` are their fingerprints, `fingerprint` the hash of both. `mel_mean` and `mel_std` `[V, M]` are per
    mel variant and band, over the training split, or over all splits if it is empty. `plans_sha256` holds the hashes of
    the plan's parts, in order; `shards_sha256` is a hash of all shards' names and hashes, "" in older datasets.
    `treatments` are the unusual ways in which sources were treated: speed, resampler, degradation; `{}` is the usual
    one, and several come from a merge.
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
    shards_sha256: str = ""
    treatments: list[dict[str, Any]] = field(default_factory=lambda: [{}])

    @property
    def hours(self) -> str:
        """The hours of each split, such as `train 1.87 h, test 0.09 h`."""
        return ", ".join(f"{split} {totals.seconds / 3600:.2f} h" for split, totals in self.splits.items())


@dataclass
class Totals:
    """Sums over the records of a dataset. Per split: `mel_sums` is float64 `[2, V, M]`, as in `ShardRecord`.

    `shards_sha256` is a hash of the names and hashes of the shards, in the order of the records.
    """

    shards_sha256: str
    splits: dict[str, SplitTotals]
    mel_sums: dict[str, np.ndarray]
    code_counts: np.ndarray | None

    def mel_statistics(self) -> tuple[list[list[float]], list[list[float]]]:
        """Return the mel's mean and standard deviation `[V, M]` over the training split, or over all if it is empty."""
        frames = {split: totals.frames for split, totals in self.splits.items() if totals.frames}
        used = ["train"] if "train" in frames else list(frames)
        if not used:
            return [], []
        mean, squares = np.sum([self.mel_sums[split] for split in used], axis=0) / sum(frames[split] for split in used)
        deviation = np.sqrt(np.maximum(squares - mean**2, 1e-8))
        return mean.round(6).tolist(), deviation.round(6).tolist()


def add_up(records: Iterable[ShardRecord]) -> Totals:
    """Return the totals of `records`, reading one at a time; splits are in the order train, validation, test."""
    sums: dict[str, SplitTotals] = {}
    mel_sums: dict[str, np.ndarray] = {}
    code_counts = None
    shards = hashlib.sha256()
    for r in records:
        shards.update(f"{r.shard} {r.sha256}\n".encode())
        so_far = sums.get(r.split, SplitTotals(0, 0.0, 0, 0))
        sums[r.split] = SplitTotals(
            samples=so_far.samples + r.samples,
            seconds=so_far.seconds + r.seconds,
            frames=so_far.frames + r.frames,
            shards=so_far.shards + (r.samples > 0),
        )
        mel_sums[r.split] = mel_sums[r.split] + r.mel_sums if r.split in mel_sums else r.mel_sums
        code_counts = r.code_counts if code_counts is None else code_counts + r.code_counts
    splits = {split: replace(sums[split], seconds=round(sums[split].seconds, 6)) for split in SPLITS if split in sums}
    return Totals(shards.hexdigest(), splits, mel_sums, code_counts)


def info_bytes(info: DatasetInfo) -> bytes:
    """Return the content of `dataset.json`; equal input gives equal bytes."""
    return (json.dumps({"format": FORMAT, **asdict(info)}, indent=1) + "\n").encode()


def read_info(dataset: Location) -> DatasetInfo:
    """Read `dataset.json`. Raises `ManifestError` if it is missing, invalid or of another format version."""
    path = dataset / FILE_NAME
    if not is_file(path):
        unfinished = is_file(dataset / "plan.parquet")
        advice = "preprocessing has not finished; rerun it" if unfinished else "is this the folder of a dataset?"
        raise ManifestError(f"{path}: no such file; {advice}")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        if (found := content.pop("format")) != FORMAT:
            raise ManifestError(
                f"{path}: its format is {found!r}, but this version of whisper-gpt reads {FORMAT!r}; preprocess the "
                "source again, or read it with the version that wrote it"
            )
        splits = {name: SplitTotals(**totals) for name, totals in content.pop("splits").items()}
        return DatasetInfo(splits=splits, **content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ManifestError(f"{path}: not a dataset description ({error})") from error


def differences(
    codec: dict[str, Any], mel: dict[str, Any], other_codec: dict[str, Any], other_mel: dict[str, Any]
) -> list[str]:
    """Return the differences between the codecs and mels of two datasets, one line each: `mel.bands 64 / 80`."""
    return [
        f"{part}.{name} {first.get(name)!r} / {second.get(name)!r}"
        for part, first, second in (("codec", codec, other_codec), ("mel", mel, other_mel))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]
