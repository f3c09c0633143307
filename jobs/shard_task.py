"""One shard to make: what goes to a worker, wherever it is."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ShardTask:
    """One shard of the plan: its rows, where the sources lie, where the dataset is written."""

    split: str
    shard: str
    rows: list[dict]
    source_root: Path
    dataset: Path
    fingerprint: str
    segment_frames: int
