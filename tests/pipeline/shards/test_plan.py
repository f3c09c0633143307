"""The plan is a pure function of listing and settings, balanced and complete; differences are described in words."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.pipeline.audio import AudioInfo
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.corpora.recording import Recording
from whisper_gpt.pipeline.errors import AudioError, PipelineError
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.shards.plan import (
    PlanSettings,
    next_shards,
    part_name,
    plan_bytes,
    plan_table,
    read_plan,
    read_shard_rows,
    recording_of,
    settings_differences,
    source_changes,
)
from whisper_gpt.pipeline.shards.source import Source

SETTINGS = PlanSettings(
    corpus="synthetic",
    codec=CodecFingerprint("encodec_24khz_small", "00", 24_000, 320, 8, 1024),
    mel=MelConfig(),
    segment_frames=2250,
    shard_mb=1.0,
    splits=("train", "validation", "test"),
)


def source(name: str, seconds: float, split: str = "train") -> Source:
    return Source(
        Recording(name, split, f"{name}.wav"), 1000, f"id of {name}", AudioInfo(16_000, 1, round(seconds * 16_000))
    )


@given(st.lists(st.tuples(st.floats(0.1, 500), st.sampled_from(["train", "validation", "test"])), max_size=60))
def test_plan_covers_every_source_once_without_gaps(drawn: list[tuple[float, str]]) -> None:
    sources = [source(f"s{i}", seconds, split) for i, (seconds, split) in enumerate(drawn)]
    plan = plan_table(sources, SETTINGS)
    assert Counter(plan["id"].to_pylist()) == Counter(s.recording.id for s in sources)
    for split in ("train", "validation", "test"):
        shards = [row["shard"] for row in plan.to_pylist() if row["split"] == split]
        assert shards == sorted(shards)
        assert sorted(set(shards)) == [f"{split}-{i:06d}" for i in range(len(set(shards)))]


@given(st.permutations(range(12)))
def test_plan_is_independent_of_the_listing_order(order: list[int]) -> None:
    sources = [source(f"s{i}", 10 + i) for i in range(12)]
    assert plan_table([sources[i] for i in order], SETTINGS).equals(plan_table(sources, SETTINGS))


def test_shards_are_balanced_and_have_the_requested_size() -> None:
    plan = plan_table([source(f"s{i}", 5 + i % 20) for i in range(2000)], SETTINGS)
    seconds: Counter[str] = Counter()
    for row in plan.to_pylist():
        seconds[row["shard"]] += row["seconds"]
    assert max(seconds.values()) - min(seconds.values()) < 50  # one source is up to 25 s
    assert SETTINGS.bytes_of(sum(seconds.values()) / len(seconds)) == pytest.approx(1e6, rel=0.05)


def test_unreadable_sources_are_planned_at_the_mean_length() -> None:
    broken = Source(Recording("bad", "train", "bad.wav"), 10, "", AudioError("scan", "no audio"))
    rows = {row["id"]: row for row in plan_table([source("a", 4), source("b", 8), broken], SETTINGS).to_pylist()}
    assert (rows["bad"]["seconds"], rows["bad"]["scan_error"]) == (6.0, "no audio")


def test_plan_round_trip_is_deterministic() -> None:
    plan = plan_table([source("a", 4), source("b", 8)], SETTINGS)
    data = plan_bytes(plan)
    assert data == plan_bytes(plan_table([source("b", 8), source("a", 4)], SETTINGS))
    assert read_plan(data, "plan").equals(plan)
    assert recording_of(plan.to_pylist()[0]) in {source("a", 4).recording, source("b", 8).recording}


def test_changed_settings_are_named() -> None:
    plan = plan_table([source("a", 4)], SETTINGS)
    assert settings_differences(plan, SETTINGS) == []
    assert settings_differences(read_plan(plan_bytes(plan), "plan"), SETTINGS) == []
    assert settings_differences(plan, replace(SETTINGS, mel=MelConfig(bands=80))) == ["mel.bands was 64 and is now 80"]


def test_changed_sources_are_named() -> None:
    a, b, c = source("a", 4), source("b", 8), source("c", 1)
    plan = plan_table([a, b], SETTINGS)
    assert source_changes(plan, [b, a]).in_words() == []
    (clause,) = source_changes(plan, [a, b, c]).in_words()
    assert "new" in clause and "c.wav" in clause
    assert source_changes(plan, [a]).gone == ["b.wav"]
    assert source_changes(plan, [replace(a, content_id="another"), b]).changed == ["a.wav"]
    redescribed = replace(b, recording=replace(b.recording, text="another text"))
    assert source_changes(plan, [a, redescribed]).described == ["b.wav"]


def test_further_parts_continue_numbering_and_override() -> None:
    a, b, new = source("a", 400), source("b", 400), source("n", 4)
    first = plan_table([a, b], SETTINGS)
    assert next_shards(first) == {"train": 2}
    repaired = replace(a, content_id="repaired", attempt=2)
    second = plan_table([repaired, new], SETTINGS, next_shards(first))
    assert min(second["shard"].to_pylist()) == "train-000002" and set(second["attempt"].to_pylist()) == {1, 2}
    assert source_changes(pa.concat_tables([first, second]), [repaired, b, new]).in_words() == []
    assert [part_name(i) for i in (0, 1)] == ["plan.parquet", "plan-000001.parquet"]


def test_rows_of_one_shard_are_read(tmp_path: Path) -> None:
    plan = plan_table([source(f"s{i}", 10) for i in range(500)], SETTINGS)
    (tmp_path / "plan.parquet").write_bytes(plan_bytes(plan))
    with (tmp_path / "plan.parquet").open("rb") as file:
        rows = read_shard_rows(file, "train-000007")
    assert rows and rows == [row for row in plan.to_pylist() if row["shard"] == "train-000007"]


def test_invalid_plan_files_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"OUT/plan\.parquet"):
        read_plan(b"PAR1 no", "OUT/plan.parquet")
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"a": [1]}), buffer)
    with pytest.raises(PipelineError, match=r"OUT/plan\.parquet: .*version"):
        read_plan(buffer.getvalue().to_pybytes(), "OUT/plan.parquet")


def test_fingerprint_depends_only_on_codec_and_mel() -> None:
    assert replace(SETTINGS, shard_mb=3.0, corpus="x").fingerprint == SETTINGS.fingerprint
    assert replace(SETTINGS, mel=MelConfig(bands=80)).fingerprint != SETTINGS.fingerprint
    assert replace(SETTINGS, codec=replace(SETTINGS.codec, codebooks=4)).fingerprint != SETTINGS.fingerprint
