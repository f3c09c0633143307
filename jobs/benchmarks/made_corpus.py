"""A corpus of any size without files, and a dataset of it without audio: to measure what grows with the number."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from whisper_gpt.jobs.preprocessing.planning import read_parts, settle_plan
from whisper_gpt.jobs.preprocessing.scanning import Chosen, scan_corpus
from whisper_gpt.manifests.dataset_info import FILE_NAME, info_bytes
from whisper_gpt.manifests.describe import describe
from whisper_gpt.manifests.fragments import ShardRecord, fragment_bytes, fragment_path, split_of
from whisper_gpt.manifests.index import publish_indexes
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.manifests.schema import SAMPLES
from whisper_gpt.manifests.scratch import scratch_folder
from whisper_gpt.pipeline.audio import AudioInfo
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.corpora.recording import SPLITS, Found, Notes, Recording
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.shards.plan import PlanPart, PlanSettings
from whisper_gpt.pipeline.shards.source import Source

_RATE = 16_000
_WORDS = "AND HE SAID THAT THE HOUSE ON THE HILL WAS NOT WHAT IT HAD BEEN WHEN THEY WERE YOUNG "
_CODEC = CodecFingerprint("made", "0" * 64, 24_000, 320, 8, 1024)
_MEL = MelConfig()


def find(count: int, root: Location, corpus: str, exclude: Sequence[str], notes: Notes) -> Iterator[Found]:
    """Yield `count` utterances of 1 to 30 s by 2,000 speakers, one in fifty of each split but train; see `Find`."""
    for i in range(count):
        seconds = _seconds(i)
        speaker, chapter = i % 2_000, i // 50
        split = {0: "validation", 1: "test"}.get(i % 50, "train")
        recording = Recording(
            id=f"{corpus}_train-clean-360_{speaker}-{chapter}-{i:08d}",
            split=split,
            path=f"train-clean-360/{speaker}/{chapter}/{speaker}-{chapter}-{i:08d}.flac",
            speaker=str(speaker),
            speaker_name=f"Speaker {speaker}",
            sex="F",
            chapter=str(chapter),
            text=(_WORDS * 5)[: int(14 * seconds)],
            extra='{"subset": "train-clean-360"}',
        )
        yield Found(recording, round(seconds * 17_000))


def examine(found: Iterator[Found]) -> Iterator[Source]:
    """Turn recordings into sources, as if their headers had been read."""
    for recording, size in found:
        number = int(recording.id[-8:])
        header = AudioInfo(_RATE, 1, round(_seconds(number) * _RATE))
        yield Source(recording, size, f"{number:032x}", header)


def plan(dataset: Location, corpus: str, count: int) -> list[PlanPart]:
    """Plan a dataset of `count` made utterances, or compare it with its plan, as `preprocess` does."""
    settings = PlanSettings(corpus, _CODEC, _MEL, 2250, None, SPLITS)
    with scratch_folder() as scratch:
        survey = scan_corpus(partial(find, count), corpus, dataset, Chosen(SPLITS), scratch / "found.parquet")
        return settle_plan(dataset, survey, examine, settings)


def make_shards(dataset: Path) -> None:
    """Write the fragments of all planned shards, one sample per source, and tars that are empty but for their size."""
    random = np.random.default_rng(0)
    counts = random.integers(0, 50, (_CODEC.codebooks, _CODEC.codebook_size))
    for part in read_parts(dataset):
        waiting: dict[str, list[pa.Table]] = {}
        for table in part.tables():
            names = table["shard"].to_pylist()
            starts = [i for i in range(len(names)) if i == 0 or names[i] != names[i - 1]]
            for start, end in zip(starts, [*starts[1:], len(names)], strict=True):
                for shard in [shard for shard in waiting if shard != names[start]]:
                    _make_shard(dataset, part, shard, pa.concat_tables(waiting.pop(shard)), counts, random)
                waiting.setdefault(names[start], []).append(table.slice(start, end - start))
        for shard, rows in waiting.items():
            _make_shard(dataset, part, shard, pa.concat_tables(rows), counts, random)


def finish(dataset: Location, corpus: str) -> None:
    """Describe and index a dataset whose shards are complete, as the end of `preprocess` does."""
    fingerprint = PlanSettings(corpus, _CODEC, _MEL, 2250, None, SPLITS).fingerprint
    info = describe(
        dataset,
        corpus=corpus,
        fingerprint=fingerprint,
        codec=asdict(_CODEC),
        mel=asdict(_MEL),
        segment_frames=2250,
        plans_sha256=[part.sha256 for part in read_parts(dataset)],
        absent_sources=0,
        treatments=[{}],
    )
    publish_indexes(dataset, info)
    publish_bytes(dataset / FILE_NAME, info_bytes(info))
    publish_bytes(dataset / "absent.txt", b"")


def _seconds(number: int) -> float:
    return 1 + (number * 7919 % 2900) / 100


def _make_shard(
    dataset: Path, part: PlanPart, shard: str, planned: pa.Table, counts: np.ndarray, random: np.random.Generator
) -> None:
    samples = _samples(planned, random)
    split, frames = split_of(shard), samples["frames"].to_numpy()
    tar = dataset / split / f"{shard}.tar"
    tar.parent.mkdir(exist_ok=True, parents=True)
    tar.touch()
    os.truncate(tar, int(samples["mel_offset"][-1].as_py() + samples["mel_size"][-1].as_py()))
    record = ShardRecord(
        shard=shard,
        split=split,
        sha256="0" * 64,
        size_bytes=tar.stat().st_size,
        fingerprint=PlanSettings("made", _CODEC, _MEL, 2250, None, SPLITS).fingerprint,
        plan_sha256=part.sha256,
        samples=len(frames),
        frames=int(frames.sum()),
        seconds=float(samples["duration_s"].to_numpy().sum()),
        mel_sums=random.standard_normal((2, len(_MEL.variants), _MEL.bands)),
        code_counts=counts,
    )
    publish_bytes(fragment_path(dataset, shard), fragment_bytes(samples, record))


def _samples(planned: pa.Table, random: np.random.Generator) -> pa.Table:
    """Return the manifest's rows of planned sources."""
    count, seconds = planned.num_rows, planned["seconds"].to_numpy()
    frames = np.ceil(seconds * 75).astype(np.int32)
    codes_size, mel_size = 128 + 16 * frames.astype(np.int64), 128 + 128 * frames.astype(np.int64)
    ends = np.cumsum(2_000 + codes_size + mel_size)
    hashes = pa.array([random.bytes(32).hex() for _ in range(count)])
    columns: dict[str, Any] = {
        "key": [f"{name}_0000" for name in planned["id"].to_pylist()],
        "frames": frames,
        "samples": (seconds * 24_000).astype(np.int64),
        "duration_s": seconds,
        "codebooks": np.full(count, _CODEC.codebooks, np.int16),
        "mel_bands": np.full(count, _MEL.bands, np.int16),
        "codes_offset": ends - codes_size - mel_size,
        "codes_size": codes_size,
        "mel_offset": ends - mel_size,
        "mel_size": mel_size,
        "source": planned["path"],
        "source_rate": np.full(count, _RATE, np.int32),
        "peak_dbfs": random.uniform(-20, 0, count).astype(np.float32),
        "rms_dbfs": random.uniform(-40, -15, count).astype(np.float32),
        "source_sha256": hashes,
        "codes_sha256": hashes,
        "mel_sha256": hashes,
    }
    empty = {True: np.zeros(count, "U1"), False: np.zeros(count)}
    for field in SAMPLES:
        if field.name not in columns:
            described = planned[field.name] if field.name in planned.column_names else None
            columns[field.name] = described if described is not None else empty[pa.types.is_string(field.type)]
    return pa.table({name: columns[name] for name in SAMPLES.names}).cast(SAMPLES)
