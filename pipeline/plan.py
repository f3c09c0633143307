"""The plan: every source file and the shard it goes to, decided before any work and never changed by a resume.

A pure function of the source's listing and the settings, so that the same corpus gives the same shards, byte for
byte, however many workers make them and however often they are interrupted.
"""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.audio import AudioInfo
from pipeline.codec.fingerprint import CodecFingerprint
from pipeline.corpora.recording import SPLITS, Recording
from pipeline.errors import AudioError, PipelineError
from pipeline.mel_config import MelConfig
from pipeline.shards import shard_name

PLAN_FILE = "plan.parquet"
_SETTINGS_KEY = b"whisper_gpt_settings"
# A sample's JSON, the three tar headers and the padding between them, roughly.
_SAMPLE_OVERHEAD_BYTES = 4_000


@dataclass(frozen=True)
class PlanSettings:
    """Everything that decides the bytes of a dataset, beside the source itself."""

    corpus: str
    codec: CodecFingerprint
    mel: MelConfig
    segment_frames: int
    shard_mb: float
    splits: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """What two datasets must share to be used together: the codec and the mel."""
        content = json.dumps({"codec": asdict(self.codec), "mel": asdict(self.mel)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def bytes_of(self, seconds: float) -> float:
        """About how many bytes of shard `seconds` of audio become."""
        frames_per_s = self.codec.sample_rate / self.codec.hop_samples
        frame_bytes = 2 * (self.codec.codebooks + self.mel.bands)
        return seconds * frames_per_s * (frame_bytes + _SAMPLE_OVERHEAD_BYTES / self.segment_frames)


@dataclass(frozen=True)
class Source:
    """A recording as it was found: its size and header, or why the header could not be read."""

    recording: Recording
    size_bytes: int
    info: AudioInfo | AudioError


def plan_table(sources: Sequence[Source], settings: PlanSettings) -> pa.Table:
    """Assign every source to a shard → the plan, one row a source, in the order of the shards.

    Within a split the sources are ordered by a hash of their id, so that each shard is a fair sample of the corpus,
    and cut into as many shards of equal duration as `shard_mb` asks for. A source is never cut in two.
    A source with an unreadable header is planned at the mean duration of the others: its failure is found, and
    written down, by the shard it belongs to.
    """
    readable = [s.info.duration_s for s in sources if isinstance(s.info, AudioInfo)]
    assumed_s = sum(readable) / len(readable) if readable else 0.0
    rows = []
    for split in SPLITS:
        members = sorted((s for s in sources if s.recording.split == split), key=_shuffled_order)
        seconds = [s.info.duration_s if isinstance(s.info, AudioInfo) else assumed_s for s in members]
        for source, planned_s, index in zip(members, seconds, _shard_of_each(seconds, settings), strict=True):
            rows.append(_row(source, settings.corpus, planned_s, shard_name(split, index)))
    metadata = {_SETTINGS_KEY: json.dumps(asdict(settings), sort_keys=True)}
    return pa.Table.from_pylist(rows, schema=_PLAN.with_metadata(metadata))


def plan_bytes(plan: pa.Table) -> bytes:
    """The plan as a Parquet file; equal plans give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(plan, buffer, compression="zstd")
    return buffer.getvalue()


def plan_differences(stored: pa.Table, new: pa.Table) -> list[str]:
    """What a resume would change, in words; empty where the two plans are one and the same."""
    before, now = _flat_settings(stored), _flat_settings(new)
    changed = [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed or stored.equals(new):
        return changed
    old_sources = dict(zip(stored["path"].to_pylist(), stored["size_bytes"].to_pylist(), strict=True))
    new_sources = dict(zip(new["path"].to_pylist(), new["size_bytes"].to_pylist(), strict=True))
    gone, added = old_sources.keys() - new_sources.keys(), new_sources.keys() - old_sources.keys()
    resized = {path for path in old_sources.keys() & new_sources.keys() if old_sources[path] != new_sources[path]}
    for what, paths in (("gone", gone), ("new", added), ("of another size", resized)):
        if paths:
            changed.append(f"{len(paths)} source files are {what}, {min(paths)} among them")
    return changed or ["the corpus' tables or the headers of its files differ"]


def read_plan(data: bytes, name: str) -> pa.Table:
    """The plan in the Parquet file `data`. Raises `PipelineError`, naming `name`, where it is not one."""
    try:
        plan = pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"{name}: not a readable plan ({error}); remove the folder and start again") from error
    if not plan.schema.equals(_PLAN) or _SETTINGS_KEY not in (plan.schema.metadata or {}):
        raise PipelineError(f"{name}: the plan of another version of whisper-gpt; write to a new folder")
    return plan


def recording_of(row: dict) -> Recording:
    """The recording of a plan's row."""
    return Recording(**{field.name: row[field.name] for field in fields(Recording)})


def _shuffled_order(source: Source) -> bytes:
    return hashlib.sha256(source.recording.id.encode()).digest()


def _shard_of_each(seconds: Sequence[float], settings: PlanSettings) -> list[int]:
    """Shard index of each source: cut at equal durations, by the middle of each source; no index is left out."""
    total = sum(seconds)
    shards = max(1, round(settings.bytes_of(total) / (settings.shard_mb * 1e6)))
    indices: list[int] = []
    elapsed, last_cut = 0.0, -1
    for duration in seconds:
        cut = int((elapsed + duration / 2) / total * shards) if total else 0
        indices.append((indices[-1] if indices else -1) + (cut != last_cut))
        elapsed, last_cut = elapsed + duration, cut
    return indices


def _row(source: Source, corpus: str, planned_s: float, shard: str) -> dict:
    info = source.info
    header = (
        {"sample_rate": info.sample_rate, "channels": info.channels, "frames": info.frames, "scan_error": ""}
        if isinstance(info, AudioInfo)
        else {"sample_rate": 0, "channels": 0, "frames": 0, "scan_error": str(info)}
    )
    return {
        **asdict(source.recording),
        "corpus": corpus,
        "shard": shard,
        "size_bytes": source.size_bytes,
        "seconds": planned_s,
        **header,
    }


def _flat_settings(plan: pa.Table) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in json.loads(plan.schema.metadata[_SETTINGS_KEY]).items():
        flat.update({f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value})
    return flat


_PLAN = pa.schema(
    [
        *(pa.field(f.name, pa.int16() if f.type is int else pa.string(), nullable=False) for f in fields(Recording)),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),  # planned: declared by the header, or assumed
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("channels", pa.int16(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("scan_error", pa.string(), nullable=False),
    ]
)
