"""The plan: every source file and its shard, decided before any work and never changed afterwards.

A pure function of the source listing and the settings: the same corpus gives the same shards, byte for byte, however
many workers make them and however often they are interrupted. A dataset that grows or retries failed sources gets
additional parts: plan.parquet, plan-000001.parquet, …
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from whisper_gpt.pipeline.audio import AudioInfo
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.corpora.recording import SPLITS, Recording
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.shards.source import Source
from whisper_gpt.pipeline.shards.tar import shard_name

PLAN_FILE = "plan.parquet"
_ROW_GROUP = 4096  # rows; one or two groups are read per shard
_SETTINGS_KEY = b"whisper_gpt_settings"
# Approximate size of a sample's JSON, its tar headers and the padding.
_SAMPLE_OVERHEAD_BYTES = 4_000
# Not stored at these values, so that plans stay equal to those of versions without the setting.
_UNSAID: dict[str, object] = {"speed": 1.0}


@dataclass(frozen=True)
class PlanSettings:
    """Everything except the source itself that determines the bytes of a dataset."""

    corpus: str
    codec: CodecFingerprint
    mel: MelConfig
    segment_frames: int
    shard_mb: float
    splits: tuple[str, ...]
    speed: float = 1.0

    @property
    def fingerprint(self) -> str:
        """Hash of codec and mel; datasets can be used together only if it is equal."""
        content = json.dumps({"codec": asdict(self.codec), "mel": asdict(self.mel)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def bytes_of(self, seconds: float) -> float:
        """Estimate the bytes that `seconds` of audio take in a shard."""
        frames_per_s = self.codec.sample_rate / self.codec.hop_samples
        frame_bytes = 2 * (self.codec.codebooks + len(self.mel.variants) * self.mel.bands)
        return seconds * frames_per_s * (frame_bytes + _SAMPLE_OVERHEAD_BYTES / self.segment_frames)


@dataclass(frozen=True)
class SourceChanges:
    """Paths of sources that differ between a plan and a later listing.

    `changed`: different size or content; `described`: different metadata in the corpus tables, or another split.
    """

    added: list[str]
    gone: list[str]
    changed: list[str]
    described: list[str]

    def in_words(self) -> list[str]:
        """Describe each kind of change in a clause; return an empty list if nothing changed."""
        kinds = (
            ("new", self.added),
            ("gone", self.gone),
            ("changed", self.changed),
            ("different in the corpus metadata or in another split", self.described),
        )
        return [f"{len(paths)} source files are {kind} (such as {min(paths)})" for kind, paths in kinds if paths]


def plan_table(
    sources: Sequence[Source], settings: PlanSettings, first_shards: Mapping[str, int] | None = None
) -> pa.Table:
    """Assign every source to a shard; return the plan, one row per source, in the order of the shards.

    Within a split the sources are ordered by a hash of their id, so that each shard is a random sample of the corpus,
    and cut into shards of equal duration, as many as `shard_mb` requires. A source is never split between shards. A
    source with an unreadable header is planned with the mean duration of the others: it fails, and is recorded, when
    its shard is made. `first_shards` gives the first shard number of each split (default 0).
    """
    readable = [s.info.duration_s / settings.speed for s in sources if isinstance(s.info, AudioInfo)]
    assumed_s = sum(readable) / len(readable) if readable else 0.0
    rows = []
    for split in SPLITS:
        members = sorted((s for s in sources if s.recording.split == split), key=_shuffled_order)
        seconds = [s.info.duration_s / settings.speed if isinstance(s.info, AudioInfo) else assumed_s for s in members]
        first = (first_shards or {}).get(split, 0)
        for source, planned_s, index in zip(members, seconds, _shard_of_each(seconds, settings), strict=True):
            rows.append(_row(source, settings.corpus, planned_s, shard_name(split, first + index)))
    metadata = {_SETTINGS_KEY: json.dumps(_stored(settings), sort_keys=True)}
    return pa.Table.from_pylist(rows, schema=_PLAN.with_metadata(metadata))


def part_name(index: int) -> str:
    """Return the file name of a plan's part, counted from 0."""
    return f"plan-{index:06d}.parquet" if index else PLAN_FILE


def plan_bytes(plan: pa.Table) -> bytes:
    """Return the plan as a Parquet file; equal plans give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(plan, buffer, compression="zstd", row_group_size=_ROW_GROUP)
    return buffer.getvalue()


def settings_differences(plan: pa.Table, settings: PlanSettings) -> list[str]:
    """Describe how `settings` differ from those of `plan`, one clause each; empty if they are equal."""
    before, now = (
        _flat(json.loads(plan.schema.metadata[_SETTINGS_KEY])),
        _flat(json.loads(json.dumps(_stored(settings)))),
    )
    return [
        f"{name} was {before.get(name, _UNSAID.get(name))!r} and is now {now.get(name, _UNSAID.get(name))!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def source_changes(plan: pa.Table, sources: Sequence[Source]) -> SourceChanges:
    """Compare a listing with the plan's parts, in their order: if a source was planned twice, its later row counts."""
    columns = ["path", "content_id", *_DESCRIPTION]
    rows = zip(*(plan[c].to_pylist() for c in columns), strict=True)
    before = {path: (content, description) for path, content, *description in rows}
    now = {s.recording.path: (s.content_id, [getattr(s.recording, c) for c in _DESCRIPTION]) for s in sources}
    both = before.keys() & now.keys()
    return SourceChanges(
        added=sorted(now.keys() - before.keys()),
        gone=sorted(before.keys() - now.keys()),
        changed=sorted(path for path in both if before[path][0] != now[path][0]),
        described=sorted(path for path in both if before[path][1] != now[path][1]),
    )


def next_shards(plan: pa.Table) -> dict[str, int]:
    """Return, for each split in `plan`, the number after its last shard's."""
    last = plan.group_by("split").aggregate([("shard", "max")]).to_pylist()
    return {row["split"]: int(row["shard_max"].rpartition("-")[2]) + 1 for row in last}


def read_plan(data: bytes, name: str) -> pa.Table:
    """Read the plan in the Parquet file `data`. Raises `PipelineError` with the file's `name` if it is not a plan."""
    try:
        plan = pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"{name}: not a readable plan ({error}); remove the folder and rerun") from error
    if not plan.schema.equals(_PLAN) or _SETTINGS_KEY not in (plan.schema.metadata or {}):
        raise PipelineError(f"{name}: written by another version of whisper-gpt; choose a new output folder")
    return plan


def read_shard_rows(file: BinaryIO, shard: str) -> list[dict]:
    """Read the rows of one shard from a plan in an open Parquet file; row groups without that shard are skipped."""
    return pq.read_table(file, filters=pc.field("shard") == shard).to_pylist()


def recording_of(row: dict) -> Recording:
    """Return the recording in a plan's row."""
    return Recording(**{field.name: row[field.name] for field in fields(Recording)})


def _shuffled_order(source: Source) -> bytes:
    return hashlib.sha256(source.recording.id.encode()).digest()


def _shard_of_each(seconds: Sequence[float], settings: PlanSettings) -> list[int]:
    """Return each source's shard index: cut at equal durations, by the middle of each source, without empty shards."""
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
        "attempt": source.attempt,
        "size_bytes": source.size_bytes,
        "content_id": source.content_id,
        "seconds": planned_s,
        **header,
    }


def _stored(settings: PlanSettings) -> dict[str, object]:
    """Return the settings as a plan stores them: those in `_UNSAID` only if they differ from it."""
    return {name: value for name, value in asdict(settings).items() if value != _UNSAID.get(name)}


def _flat(settings: dict) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in settings.items():
        flat.update({f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value})
    return flat


_DESCRIPTION = [f.name for f in fields(Recording) if f.name != "path"]
_PLAN = pa.schema(
    [
        *(pa.field(f.name, pa.int16() if f.type is int else pa.string(), nullable=False) for f in fields(Recording)),
        pa.field("corpus", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("attempt", pa.int16(), nullable=False),
        pa.field("size_bytes", pa.int64(), nullable=False),
        pa.field("content_id", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),  # planned: declared by the header, or assumed
        pa.field("sample_rate", pa.int32(), nullable=False),
        pa.field("channels", pa.int16(), nullable=False),
        pa.field("frames", pa.int64(), nullable=False),
        pa.field("scan_error", pa.string(), nullable=False),
    ]
)
