"""What goes to a worker, wherever it is: what all shards of a job have in common, and one shard of its plan."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.features.mel_config import MelConfig

Device = Literal["cpu", "cuda"]

# Worker crashes until a shard is searched for the source that causes them, and until a single source is given up:
# workers also die of other things.
MAX_CRASHES = 3


@dataclass(frozen=True)
class ShardJob:
    """Where the sources lie and where the dataset is written, its fingerprint, and the longest sample in frames."""

    source: Location
    dataset: Location
    fingerprint: str
    segment_frames: int


@dataclass(frozen=True)
class ShardTask:
    """One shard: which part of the plan lists its sources, and how many seconds they are.

    `given_up` are the paths of sources that end whatever process reads them: they fail unread.
    """

    plan: str
    plan_sha256: str
    split: str
    shard: str
    seconds: float
    given_up: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to make any shard of a dataset; without a file of weights, the small codec that each has."""

    job: ShardJob
    codec: CodecFingerprint
    codec_weights: Path | None
    mel: MelConfig
    device: Device = "cpu"
