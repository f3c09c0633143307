"""What is sent to a worker and back: the settings that all shards share, one shard of the plan, and its progress."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.treatment import USUAL, Treatment

Device = Literal["cpu", "cuda"]

# Worker crashes before a shard is searched for the source that causes them, and before a single source is given up.
# More than one, because workers also die for other reasons.
MAX_CRASHES = 3


@dataclass(frozen=True)
class ShardJob:
    """Locations of sources and dataset, the dataset's fingerprint, the longest sample in frames, and how a source is
    treated."""

    source: Location
    dataset: Location
    fingerprint: str
    segment_frames: int
    treatment: Treatment = USUAL


@dataclass(frozen=True)
class ShardTask:
    """One shard: the part of the plan that lists its sources, and their total seconds.

    `given_up` are the paths of sources that crash every process that reads them: they fail without being read.
    """

    plan: str
    plan_sha256: str
    split: str
    shard: str
    seconds: float
    given_up: tuple[str, ...] = ()


class Progress(NamedTuple):
    """A worker's report: planned seconds of sources done since the last one, and how many shards are published."""

    seconds: float
    published: int


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker needs to make any shard of a dataset. Without `codec_weights` it uses the codec in the package."""

    job: ShardJob
    codec: CodecFingerprint
    codec_weights: Path | None
    mel: MelConfig
    device: Device = "cpu"
