"""Make planned shards: decode, encode, write, publish. Idempotent, and the same bytes every time.

Does not depend on Ray: an actor, a test or a plain loop can call it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa

from whisper_gpt.manifests.failures import failures_bytes, failures_path
from whisper_gpt.manifests.fragments import ShardRecord, fragment_bytes, fragment_path
from whisper_gpt.manifests.publish import publish_bytes, publishing
from whisper_gpt.manifests.schema import SAMPLES
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.quantizer import code_counts
from whisper_gpt.pipeline.corpora.recording import Recording
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.features.encode import Segment, align_recordings
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.shards.encoder import dry_encode
from whisper_gpt.pipeline.shards.plan import recording_of
from whisper_gpt.pipeline.shards.sample import MEMBERS, Sample, SampleMeta
from whisper_gpt.pipeline.shards.source_reader import SourceReader, require_corpus
from whisper_gpt.pipeline.shards.tar import ShardWriter, Span, shard_path
from whisper_gpt.pipeline.shards.task import Progress, ShardJob, ShardTask


@dataclass
class _Tally:
    """Sums over the samples of a shard, for its record."""

    frames: int
    seconds: float
    mel_sums: np.ndarray  # float64 [2, V, M]
    code_counts: np.ndarray  # int64 [K, codebook_size]

    def add(self, segment: Segment, sample_rate: int) -> None:
        mel = segment.mels.astype(np.float64)  # [V, T, M]
        self.frames += mel.shape[1]
        self.seconds += segment.samples / sample_rate
        self.mel_sums += [mel.sum(axis=1), np.square(mel).sum(axis=1)]
        self.code_counts += code_counts(segment.codes, self.code_counts.shape[1])

    def merge(self, other: "_Tally") -> None:
        self.frames += other.frames
        self.seconds += other.seconds
        self.mel_sums += other.mel_sums
        self.code_counts += other.code_counts


def make_shards(
    job: ShardJob, tasks: Sequence[tuple[ShardTask, list[dict]]], codec: Codec, log_mel: LogMel
) -> Iterator[Progress]:
    """Make and publish one shard after the other, each from its task and the plan's rows; report every source.

    The shards' recordings are encoded in one stream, so that the batch is full until the end of the last shard; what is
    encoded before its shard's turn waits in memory.

    A source that fails gives no sample and one row in `failures/`. The tar is published first, then the failures, then
    the manifest fragment: its existence means that the shard is complete. Raises only for errors that are not the
    sources' fault (a full disk, a corpus that is not mounted on this node, an object store that does not answer).
    """
    require_corpus(job.source)
    sources = [[SourceReader(job, row, row["path"] in task.given_up) for row in rows] for task, rows in tasks]
    every = [source for of_shard in sources for source in of_shard]
    # Only the last shard's recordings may change their order, or the shards before it would have to wait for it.
    last_seconds = [source.row["seconds"] for source in sources[-1]]
    aligned = align_recordings([source.blocks() for source in every], codec, log_mel, job.segment_frames, last_seconds)
    for index, ((task, _), of_shard) in enumerate(zip(tasks, sources, strict=True)):
        for done_s in _make_shard(job, task, of_shard, aligned, codec, log_mel):
            yield Progress(done_s, index)
        yield Progress(0.0, index + 1)


def _make_shard(
    job: ShardJob,
    task: ShardTask,
    sources: Sequence[SourceReader],
    aligned: Iterator[Iterator[Segment]],
    codec: Codec,
    log_mel: LogMel,
) -> Iterator[float]:
    """Make and publish a shard from the next recordings in `aligned`; yield the planned seconds of each source."""
    tally = _new_tally(codec, log_mel)
    manifest_rows: list[dict] = []
    failures: list[dict] = []
    tar = shard_path(job.dataset, task.split, task.shard)
    with publishing(tar) as file:
        writer = ShardWriter(file)
        for source in sources:
            segments = next(aligned)
            mark, source_tally = writer.mark(), _new_tally(codec, log_mel)
            try:
                source_rows = _write_recording(task, source, segments, codec, writer, source_tally)
            except AudioError as error:
                writer.rollback(mark)
                failures.append(_failure_row(source.row, error))
            else:
                manifest_rows += source_rows
                tally.merge(source_tally)
            yield source.row["seconds"]
        digest = writer.close()
        size = file.tell()
    if not manifest_rows:  # tar readers do not expect an empty shard
        tar.unlink(missing_ok=True)
        digest, size = "", 0
    # Replaced, not removed first: a worker that outlived its driver may have committed the shard in the meantime.
    if failures:
        publish_bytes(failures_path(job.dataset, task.shard), failures_bytes(failures))
    else:
        failures_path(job.dataset, task.shard).unlink(missing_ok=True)
    record = ShardRecord(
        shard=task.shard,
        split=task.split,
        sha256=digest,
        size_bytes=size,
        fingerprint=job.fingerprint,
        plan_sha256=task.plan_sha256,
        samples=len(manifest_rows),
        frames=tally.frames,
        seconds=tally.seconds,
        mel_sums=tally.mel_sums,
        code_counts=tally.code_counts,
    )
    samples = pa.Table.from_pylist(manifest_rows, SAMPLES)
    publish_bytes(fragment_path(job.dataset, task.shard), fragment_bytes(samples, record))


def try_sources(job: ShardJob, rows: Sequence[dict], codec: Codec, log_mel: LogMel) -> None:
    """Read and encode the sources of `rows` as `make_shards` does, but write nothing."""
    dry_encode([SourceReader(job, row).blocks() for row in rows], codec, log_mel, job.segment_frames)


def _write_recording(
    task: ShardTask, source: SourceReader, segments: Iterator[Segment], codec: Codec, writer: ShardWriter, tally: _Tally
) -> list[dict]:
    """Add all segments of one source to the shard; return their manifest rows. Raises `AudioError` if it fails."""
    rows, plan_row = [], source.row
    for index, segment in enumerate(segments):
        meta = _meta(recording_of(plan_row), plan_row["corpus"], index, segment, codec)
        sample = Sample(meta, segment.codes, segment.mel, segment.mel_variants)
        spans = writer.add(sample)
        tally.add(segment, codec.sample_rate)
        rows.append(_manifest_row(sample, segment, spans, task.shard))
    described = {
        "source": plan_row["path"],
        "source_sha256": source.sha256,
        "source_rate": plan_row["sample_rate"],
        "source_channels": plan_row["channels"],
    }
    return [row | described for row in rows]


def _meta(recording: Recording, corpus: str, index: int, segment: Segment, codec: Codec) -> SampleMeta:
    described = asdict(recording)
    described["source"] = described.pop("path")
    return SampleMeta(
        key=f"{described.pop('id')}_{index:04d}",
        corpus=corpus,
        segment=index,
        start_s=segment.start_sample / codec.sample_rate,
        duration_s=segment.samples / codec.sample_rate,
        samples=segment.samples,
        **described,
    )


def _manifest_row(sample: Sample, segment: Segment, spans: dict[str, Span], shard: str) -> dict:
    row = asdict(sample.meta) | {
        "shard": shard,
        "frames": sample.codes.shape[1],
        "codebooks": sample.codes.shape[0],
        "mel_bands": sample.mel.shape[1],
        "peak_dbfs": segment.peak_dbfs,
        "rms_dbfs": segment.rms_dbfs,
        "clipped_share": segment.clipped_share,
    }
    absent = Span(0, 0, "")
    for member in (name.partition(".")[0] for name in MEMBERS):
        span = spans.get(member, absent)
        row |= {f"{member}_offset": span.offset, f"{member}_size": span.size}
        if member != "json":  # its fields are columns of the row
            row[f"{member}_sha256"] = span.sha256
    return row


def _failure_row(plan_row: dict, error: AudioError) -> dict:
    return {
        "source": plan_row["path"],
        "corpus": plan_row["corpus"],
        "split": plan_row["split"],
        "seconds": plan_row["seconds"],
        "stage": error.stage,
        "error": error.kind or type(error.__cause__ or error).__name__,
        "message": str(error),
        "attempts": plan_row["attempt"],
    }


def _new_tally(codec: Codec, log_mel: LogMel) -> _Tally:
    return _Tally(
        frames=0,
        seconds=0.0,
        mel_sums=np.zeros((2, len(log_mel.config.variants), log_mel.config.bands)),
        code_counts=np.zeros((codec.codebooks, codec.codebook_size), np.int64),
    )
