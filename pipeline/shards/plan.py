"""The plan: every source file and its shard, decided before any work and never changed afterwards.

A pure function of the source listing and the settings: the same corpus gives the same shards, byte for byte, however
many workers make them and however often they are interrupted. A dataset that grows or retries failed sources gets
additional parts: plan.parquet, plan-000001.parquet, …
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from whisper_gpt.manifests.location import Location, open_for_seeking
from whisper_gpt.manifests.publish import publishing
from whisper_gpt.pipeline.audio import AudioInfo
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.corpora.recording import Recording
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.shards.source import Source
from whisper_gpt.pipeline.treatment import USUAL, Degradation, Resampler, Treatment

PLAN_FILE = "plan.parquet"
ROW_GROUP = 4096  # rows; one or two groups are read per shard
_SETTINGS_KEY = b"whisper_gpt_settings"
# Approximate size of a sample's JSON, its tar headers and the padding.
_SAMPLE_OVERHEAD_BYTES = 4_000
# Not stored at these values, so that plans stay equal to those of versions without the setting.
_UNSAID: dict[str, object] = asdict(USUAL)


@dataclass(frozen=True)
class PlanSettings:
    """Everything except the source itself that determines the bytes of a dataset.

    Without `shard_mb` the plan chooses a size that suits the corpus.
    """

    corpus: str
    codec: CodecFingerprint
    mel: MelConfig
    segment_frames: int
    shard_mb: float | None
    splits: tuple[str, ...]
    speed: float = USUAL.speed
    resampler: Resampler = USUAL.resampler
    degradation: Degradation = USUAL.degradation

    @property
    def treatment(self) -> Treatment:
        """What is done to each source before it is encoded."""
        return Treatment(self.speed, self.resampler, self.degradation)

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
class PlanPart:
    """A stored part of a dataset's plan: its file's location and SHA-256."""

    path: Location
    sha256: str

    @property
    def name(self) -> str:
        """The name of the part's file."""
        return self.path.name

    def schema(self) -> pa.Schema:
        """Read the columns' types and the settings. Raises `PipelineError` if the file is not a plan."""
        try:
            with open_for_seeking(self.path) as file:
                schema = pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise PipelineError(f"{self.path}: not a readable plan ({error}); remove the folder and rerun") from error
        if not schema.equals(PLAN) or _SETTINGS_KEY not in (schema.metadata or {}):
            raise PipelineError(f"{self.path}: written by another version of whisper-gpt; choose a new output folder")
        return schema

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns of all rows; split and shard as dictionaries, as they have few values."""
        with open_for_seeking(self.path) as file:
            table = pq.read_table(file, columns=list(columns), read_dictionary=["split", "shard"])
        return table.unify_dictionaries()  # each row group has its own

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Read some columns, or all, a few thousand rows at a time, in the order of the shards."""
        with open_for_seeking(self.path) as file:
            for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP, columns=columns):
                yield pa.Table.from_batches([batch])

    def read_shard(self, shard: str) -> list[dict]:
        """Read the rows of one shard; row groups without that shard are skipped."""
        with open_for_seeking(self.path) as file:
            return pq.read_table(file, filters=pc.field("shard") == shard).to_pylist()


def part_name(index: int) -> str:
    """Return the file name of a plan's part, counted from 0."""
    return f"plan-{index:06d}.parquet" if index else PLAN_FILE


def plan_schema(settings: PlanSettings) -> pa.Schema:
    """Return the schema of a plan's file, which holds the settings."""
    return PLAN.with_metadata({_SETTINGS_KEY: json.dumps(_stored(settings), sort_keys=True)})


def write_plan(path: Location, rows: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write a plan's `rows` to a file, in one atomic step; equal rows and schemas give equal bytes."""
    with publishing(path) as file, pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _row_groups(rows):
            writer.write_table(group.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP)


def stored_shard_mb(schema: pa.Schema) -> float:
    """Return the size of shards that a plan was made for."""
    return json.loads(schema.metadata[_SETTINGS_KEY])["shard_mb"]


def settings_differences(schema: pa.Schema, settings: PlanSettings) -> list[str]:
    """Describe how `settings` differ from those in a plan's schema, one clause each; empty if they are equal."""
    before, now = (
        _flat(json.loads(schema.metadata[_SETTINGS_KEY])),
        _flat(json.loads(json.dumps(_stored(settings)))),
    )
    return [
        f"{name} was {before.get(name, _UNSAID.get(name))!r} and is now {now.get(name, _UNSAID.get(name))!r}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def next_shards(parts: Iterable[PlanPart]) -> dict[str, int]:
    """Return, for each split in a plan, the number after its last shard's."""
    shards = {shard for part in parts for shard in part.read(["shard"])["shard"].unique().to_pylist()}
    numbers: dict[str, int] = {}
    for shard in shards:
        split, _, number = shard.rpartition("-")
        numbers[split] = max(numbers.get(split, 0), int(number) + 1)
    return numbers


def source_columns(sources: Sequence[Source], corpus: str) -> pa.RecordBatch:
    """Return a row of the plan per source, but for shard and planned seconds, which depend on all of them."""
    columns = zip(*(_row(source, corpus) for source in sources), strict=True)
    return pa.RecordBatch.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, SOURCES, strict=True)], schema=SOURCES
    )


def recording_of(row: dict) -> Recording:
    """Return the recording in a plan's row."""
    return Recording(**{field.name: row[field.name] for field in fields(Recording)})


def _row_groups(rows: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Join tables of any size into tables of `ROW_GROUP` rows in one piece, on which the pages of a file depend; the
    last may be shorter."""
    waiting = PLAN.empty_table()
    for table in rows:
        waiting = pa.concat_tables([waiting, table])
        while waiting.num_rows >= ROW_GROUP:
            yield waiting.slice(0, ROW_GROUP).combine_chunks()
            waiting = waiting.slice(ROW_GROUP)
    if waiting.num_rows:
        yield waiting.combine_chunks()


def _row(source: Source, corpus: str) -> tuple:
    info = source.info
    if isinstance(info, AudioInfo):
        header = info.sample_rate, info.channels, info.frames, ""
    else:
        header = 0, 0, 0, str(info)
    recording = (getattr(source.recording, field.name) for field in fields(Recording))
    return *recording, corpus, source.attempt, source.size_bytes, source.content_id, *header


def _stored(settings: PlanSettings) -> dict[str, object]:
    """Return the settings as a plan stores them: those in `_UNSAID` only if they differ from it."""
    return {name: value for name, value in asdict(settings).items() if value != _UNSAID.get(name)}


def _flat(settings: dict) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in settings.items():
        flat.update({f"{name}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {name: value})
    return flat


RECORDING = [pa.field(f.name, pa.int16() if f.type is int else pa.string(), nullable=False) for f in fields(Recording)]
PLAN = pa.schema(
    [
        *RECORDING,
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
SOURCES = pa.schema([field for field in PLAN if field.name not in ("shard", "seconds")])
