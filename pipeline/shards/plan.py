"""The plan: every source file and the shard it goes to, decided before any work and never changed after it.

A pure function of the source's listing and the settings, so that the same corpus gives the same shards, byte for
byte, however many workers make them and however often they are interrupted. A dataset that grows, or tries failed
sources again, gets further parts beside the first: plan.parquet, plan-000001.parquet, …
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
_ROW_GROUP = 4096  # of which one, or two, are read for a shard
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
        frame_bytes = 2 * (self.codec.codebooks + len(self.mel.views) * self.mel.bands)
        return seconds * frames_per_s * (frame_bytes + _SAMPLE_OVERHEAD_BYTES / self.segment_frames)


@dataclass(frozen=True)
class SourceChanges:
    """Paths of sources that a plan and a later listing do not agree on.

    `changed`: another size or other content; `described`: other words in the corpus' own tables, or another split.
    """

    added: list[str]
    gone: list[str]
    changed: list[str]
    described: list[str]

    def in_words(self) -> list[str]:
        """A clause for each kind of change; empty where there is none."""
        kinds = (
            ("new", self.added),
            ("gone", self.gone),
            ("changed", self.changed),
            ("described otherwise by the corpus' tables, or held out otherwise", self.described),
        )
        return [f"{len(paths)} source files are {what}, {min(paths)} among them" for what, paths in kinds if paths]


def plan_table(
    sources: Sequence[Source], settings: PlanSettings, first_shards: Mapping[str, int] | None = None
) -> pa.Table:
    """Assign every source to a shard → the plan, one row a source, in the order of the shards.

    Within a split the sources are ordered by a hash of their id, so that each shard is a fair sample of the corpus,
    and cut into as many shards of equal duration as `shard_mb` asks for. A source is never cut in two.
    A source with an unreadable header is planned at the mean duration of the others: its failure is found, and
    written down, by the shard it belongs to. `first_shards`: where each split's numbers begin, 0 if not given.
    """
    readable = [s.info.duration_s for s in sources if isinstance(s.info, AudioInfo)]
    assumed_s = sum(readable) / len(readable) if readable else 0.0
    rows = []
    for split in SPLITS:
        members = sorted((s for s in sources if s.recording.split == split), key=_shuffled_order)
        seconds = [s.info.duration_s if isinstance(s.info, AudioInfo) else assumed_s for s in members]
        first = (first_shards or {}).get(split, 0)
        for source, planned_s, index in zip(members, seconds, _shard_of_each(seconds, settings), strict=True):
            rows.append(_row(source, settings.corpus, planned_s, shard_name(split, first + index)))
    metadata = {_SETTINGS_KEY: json.dumps(asdict(settings), sort_keys=True)}
    return pa.Table.from_pylist(rows, schema=_PLAN.with_metadata(metadata))


def part_name(index: int) -> str:
    """The file name of a plan's part, counted from 0."""
    return f"plan-{index:06d}.parquet" if index else PLAN_FILE


def plan_bytes(plan: pa.Table) -> bytes:
    """The plan as a Parquet file; equal plans give equal bytes."""
    buffer = io.BytesIO()
    pq.write_table(plan, buffer, compression="zstd", row_group_size=_ROW_GROUP)
    return buffer.getvalue()


def settings_differences(plan: pa.Table, settings: PlanSettings) -> list[str]:
    """What `settings` would change in the dataset of `plan`, in words; empty where they are its own."""
    before, now = (
        _flat(json.loads(plan.schema.metadata[_SETTINGS_KEY])),
        _flat(json.loads(json.dumps(asdict(settings)))),
    )
    return [
        f"{name} was {before.get(name)!r} and is now {now.get(name)!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def source_changes(plan: pa.Table, found: Sequence[Source]) -> SourceChanges:
    """Hold a listing against the plan's parts, in their order: of a source planned twice, the later row counts."""
    columns = ["path", "content_id", *_DESCRIPTION]
    before = {
        path: (content, words) for path, content, *words in zip(*(plan[c].to_pylist() for c in columns), strict=True)
    }
    now = {s.recording.path: (s.content_id, [getattr(s.recording, c) for c in _DESCRIPTION]) for s in found}
    both = before.keys() & now.keys()
    return SourceChanges(
        added=sorted(now.keys() - before.keys()),
        gone=sorted(before.keys() - now.keys()),
        changed=sorted(path for path in both if before[path][0] != now[path][0]),
        described=sorted(path for path in both if before[path][1] != now[path][1]),
    )


def next_shards(plan: pa.Table) -> dict[str, int]:
    """Of each split in `plan`, the number after that of its last shard."""
    last = plan.group_by("split").aggregate([("shard", "max")]).to_pylist()
    return {row["split"]: int(row["shard_max"].rpartition("-")[2]) + 1 for row in last}


def read_plan(data: bytes, name: str) -> pa.Table:
    """The plan in the Parquet file `data`. Raises `PipelineError`, naming `name`, where it is not one."""
    try:
        plan = pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise PipelineError(f"{name}: not a readable plan ({error}); remove the folder and start again") from error
    if not plan.schema.equals(_PLAN) or _SETTINGS_KEY not in (plan.schema.metadata or {}):
        raise PipelineError(f"{name}: the plan of another version of whisper-gpt; write to a new folder")
    return plan


def read_shard_rows(file: BinaryIO, shard: str) -> list[dict]:
    """The rows of one shard of the plan in an open Parquet file; row groups without it are not read."""
    return pq.read_table(file, filters=pc.field("shard") == shard).to_pylist()


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
        "attempt": source.attempt,
        "size_bytes": source.size_bytes,
        "content_id": source.content_id,
        "seconds": planned_s,
        **header,
    }


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
