"""The plan: a pure function of listing and settings, balanced, complete; differences are put into words."""

from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio import AudioInfo
from pipeline.codec.fingerprint import CodecFingerprint
from pipeline.corpora.recording import Recording
from pipeline.errors import AudioError, PipelineError
from pipeline.mel_config import MelConfig
from pipeline.plan import PlanSettings, Source, plan_bytes, plan_differences, plan_table, read_plan, recording_of

SETTINGS = PlanSettings(
    corpus="made",
    codec=CodecFingerprint("encodec_24khz_small", "00", 24_000, 320, 8, 1024),
    mel=MelConfig(),
    segment_frames=2250,
    shard_mb=1.0,
    splits=("train", "validation", "test"),
)


def source(name: str, seconds: float, split: str = "train") -> Source:
    return Source(Recording(name, split, f"{name}.wav"), 1000, AudioInfo(16_000, 1, round(seconds * 16_000)))


@given(st.lists(st.tuples(st.floats(0.1, 500), st.sampled_from(["train", "validation", "test"])), max_size=60))
def test_every_source_once_splits_apart_no_gaps(drawn: list[tuple[float, str]]) -> None:
    sources = [source(f"s{i}", seconds, split) for i, (seconds, split) in enumerate(drawn)]
    plan = plan_table(sources, SETTINGS)
    assert Counter(plan["id"].to_pylist()) == Counter(s.recording.id for s in sources)
    for split in ("train", "validation", "test"):
        shards = [row["shard"] for row in plan.to_pylist() if row["split"] == split]
        assert shards == sorted(shards)
        assert sorted(set(shards)) == [f"{split}-{i:06d}" for i in range(len(set(shards)))]


@given(st.permutations(range(12)))
def test_the_listing_s_order_does_not_matter(order: list[int]) -> None:
    sources = [source(f"s{i}", 10 + i) for i in range(12)]
    assert plan_table([sources[i] for i in order], SETTINGS).equals(plan_table(sources, SETTINGS))


def test_shards_are_balanced_and_of_the_size_asked_for() -> None:
    plan = plan_table([source(f"s{i}", 5 + i % 20) for i in range(2000)], SETTINGS)
    seconds: Counter[str] = Counter()
    for row in plan.to_pylist():
        seconds[row["shard"]] += row["seconds"]
    assert max(seconds.values()) - min(seconds.values()) < 50  # one source is up to 25 s
    assert SETTINGS.bytes_of(sum(seconds.values()) / len(seconds)) == pytest.approx(1e6, rel=0.05)


def test_unreadable_headers_are_planned_at_the_mean() -> None:
    broken = Source(Recording("bad", "train", "bad.wav"), 10, AudioError("scan", "no audio"))
    rows = {row["id"]: row for row in plan_table([source("a", 4), source("b", 8), broken], SETTINGS).to_pylist()}
    assert (rows["bad"]["seconds"], rows["bad"]["scan_error"]) == (6.0, "no audio")


def test_equal_plans_are_equal_bytes_and_read_back() -> None:
    plan = plan_table([source("a", 4), source("b", 8)], SETTINGS)
    data = plan_bytes(plan)
    assert data == plan_bytes(plan_table([source("b", 8), source("a", 4)], SETTINGS))
    assert read_plan(data, "plan").equals(plan)
    assert recording_of(plan.to_pylist()[0]) in {source("a", 4).recording, source("b", 8).recording}


def test_differences_are_named() -> None:
    sources = [source("a", 4), source("b", 8)]
    plan = plan_table(sources, SETTINGS)
    assert plan_differences(plan, plan) == []
    other_mel = plan_table(sources, replace(SETTINGS, mel=MelConfig(bands=80)))
    assert plan_differences(plan, other_mel) == ["mel.bands was 64 and is now 80"]
    assert (
        "1 source files are new, c.wav" in plan_differences(plan, plan_table([*sources, source("c", 1)], SETTINGS))[0]
    )
    assert "gone" in plan_differences(plan, plan_table(sources[:1], SETTINGS))[0]
    resized = replace(sources[0], size_bytes=5)
    assert "of another size" in plan_differences(plan, plan_table([resized, sources[1]], SETTINGS))[0]


def test_what_is_no_plan_is_refused() -> None:
    with pytest.raises(PipelineError, match="not a readable plan"):
        read_plan(b"PAR1 no", "OUT/plan.parquet")
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), buffer)
    with pytest.raises(PipelineError, match="another version"):
        read_plan(buffer.getvalue().to_pybytes(), "OUT/plan.parquet")


def test_the_fingerprint_is_of_codec_and_mel_alone() -> None:
    assert replace(SETTINGS, shard_mb=3.0, corpus="x").fingerprint == SETTINGS.fingerprint
    assert replace(SETTINGS, mel=MelConfig(bands=80)).fingerprint != SETTINGS.fingerprint
    assert replace(SETTINGS, codec=replace(SETTINGS.codec, codebooks=4)).fingerprint != SETTINGS.fingerprint
