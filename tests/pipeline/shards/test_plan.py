"""The plan is a pure function of listing and settings, balanced and complete; differences are described in words."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import plan_of
from whisper_gpt.jobs.preprocessing.planning import shard_tasks
from whisper_gpt.manifests.location import file_sha256
from whisper_gpt.pipeline.audio import AudioInfo
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.corpora.recording import Recording
from whisper_gpt.pipeline.errors import AudioError, PipelineError
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.shards.plan import (
    PlanPart,
    PlanSettings,
    next_shards,
    part_name,
    plan_schema,
    recording_of,
    settings_differences,
    source_columns,
    write_plan,
)
from whisper_gpt.pipeline.shards.plan_changes import Change, source_changes, write_chosen
from whisper_gpt.pipeline.shards.plan_order import Totals, suited_shard_mb
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
    plan = plan_of(sources, SETTINGS)
    assert Counter(plan["id"].to_pylist()) == Counter(s.recording.id for s in sources)
    for split in ("train", "validation", "test"):
        shards = [row["shard"] for row in plan.to_pylist() if row["split"] == split]
        assert shards == sorted(shards)
        assert sorted(set(shards)) == [f"{split}-{i:06d}" for i in range(len(set(shards)))]


@given(st.permutations(range(12)))
def test_plan_is_independent_of_the_listing_order(order: list[int]) -> None:
    sources = [source(f"s{i}", 10 + i) for i in range(12)]
    assert plan_of([sources[i] for i in order], SETTINGS).equals(plan_of(sources, SETTINGS))


def test_shards_are_balanced_and_have_the_requested_size() -> None:
    plan = plan_of([source(f"s{i}", 5 + i % 20) for i in range(2000)], SETTINGS)
    seconds: Counter[str] = Counter()
    for row in plan.to_pylist():
        seconds[row["shard"]] += row["seconds"]
    assert max(seconds.values()) - min(seconds.values()) < 50  # one source is up to 25 s
    assert SETTINGS.bytes_of(sum(seconds.values()) / len(seconds)) == pytest.approx(1e6, rel=0.05)


def test_unreadable_sources_are_planned_at_the_mean_length() -> None:
    broken = Source(Recording("bad", "train", "bad.wav"), 10, "", AudioError("scan", "no audio"))
    rows = {row["id"]: row for row in plan_of([source("a", 4), source("b", 8), broken], SETTINGS).to_pylist()}
    assert (rows["bad"]["seconds"], rows["bad"]["scan_error"]) == (6.0, "no audio")


def stored(plan: pa.Table, path: Path, settings: PlanSettings = SETTINGS) -> PlanPart:
    write_plan(path, [plan], plan_schema(settings))
    return PlanPart(path, file_sha256(path))


def test_plan_round_trip_is_deterministic(tmp_path: Path) -> None:
    plan = plan_of([source("a", 4), source("b", 8)], SETTINGS)
    part = stored(plan, tmp_path / "plan.parquet")
    again = stored(plan_of([source("b", 8), source("a", 4)], SETTINGS), tmp_path / "again.parquet")
    assert part.sha256 == again.sha256
    assert pa.concat_tables(part.tables()).equals(plan)
    assert part.read(["path", "seconds"]).equals(plan.select(["path", "seconds"]))
    assert recording_of(plan.to_pylist()[0]) in {source("a", 4).recording, source("b", 8).recording}


def test_a_file_does_not_depend_on_the_tables_it_was_written_from(tmp_path: Path) -> None:
    def spoken(i: int) -> Source:  # columns of more than a page
        recording = Recording(f"s{i}", "train", f"s{i}.wav", text=hashlib.sha256(str(i).encode()).hexdigest() * 6)
        return replace(source(f"s{i}", 10), recording=recording)

    plan = plan_of([spoken(i) for i in range(9_000)], SETTINGS)
    whole = stored(plan, tmp_path / "plan.parquet")
    for size in (333, 700, 4096):
        slices = [plan.slice(begin, size) for begin in range(0, len(plan), size)]
        write_plan(tmp_path / "again.parquet", slices, plan_schema(SETTINGS))
        assert file_sha256(tmp_path / "again.parquet") == whole.sha256
    assert pq.ParquetFile(whole.path).num_row_groups == 3
    assert whole.read(["shard"])["shard"].cast(pa.string()).equals(plan["shard"])  # each group has its own dictionary
    shards = sorted(set(plan["shard"].to_pylist()))
    assert next_shards([whole]) == {"train": len(shards)}
    assert [task.shard for task in shard_tasks([whole])] == shards


def test_sources_are_ordered_by_the_hash_of_their_id() -> None:
    ids = plan_of([source(f"s{i}", 1) for i in range(3_000)], SETTINGS)["id"].to_pylist()
    assert ids == sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())


def test_changed_settings_are_named() -> None:
    schema = plan_schema(SETTINGS)
    assert settings_differences(schema, SETTINGS) == []
    assert settings_differences(schema, replace(SETTINGS, mel=MelConfig(bands=80))) == [
        "mel.bands was 64 and is now 80"
    ]


@pytest.mark.parametrize(
    ("sources", "seconds", "megabytes"),
    [
        (100, 3.6, 8),  # a few minutes
        (300_000, 12, 39),  # LibriSpeech: a thousandth
        (1_276, 560, 49),  # MAESTRO: eight recordings
        (40, 560, 8),  # a small corpus: larger shards would be too few for several workers
        (30_000_000, 12, 128),
    ],
)
def test_a_size_of_shards_is_chosen_that_suits_the_corpus(sources: int, seconds: float, megabytes: float) -> None:
    settings = replace(SETTINGS, shard_mb=None)
    samples = {"train": Counter({16_000: round(sources * seconds * 16_000)})}
    totals = Totals(samples, Counter(train=sources), Counter())
    assert suited_shard_mb(totals, settings) == pytest.approx(megabytes, rel=0.05)
    assert suited_shard_mb(totals, SETTINGS) == SETTINGS.shard_mb  # as asked for


def listed(sources: Sequence[Source]) -> pa.Table:
    return pa.Table.from_batches([source_columns(sources, "synthetic")])


def changes(parts: list[pa.Table], sources: list[Source], scratch: Path, *failed: str) -> dict[str, Change]:
    return source_changes(parts, listed(sources), scratch, failed).kinds


def test_changed_sources_are_named(tmp_path: Path) -> None:
    a, b, c = source("a", 4), source("b", 8), source("c", 1)
    plan = plan_of([a, b], SETTINGS)
    assert changes([plan], [b, a], tmp_path) == {}
    (clause,) = source_changes([plan], listed([a, b, c]), tmp_path).in_words()
    assert "new" in clause and "c.wav" in clause
    assert changes([plan], [a], tmp_path) == {"gone": Change(1, "b.wav")}
    assert changes([plan], [replace(a, size_bytes=999), b], tmp_path) == {"changed": Change(1, "a.wav")}
    redescribed = replace(b, recording=replace(b.recording, text="another text"))
    assert changes([plan], [a, redescribed], tmp_path) == {"described": Change(1, "b.wav")}
    assert changes([plan], [replace(a, size_bytes=999)], tmp_path, "a.wav", "b.wav") == {}  # failed before


def test_further_parts_continue_numbering_and_override(tmp_path: Path) -> None:
    a, b, new = source("a", 400), source("b", 400), source("n", 4)
    first = plan_of([a, b], SETTINGS)
    part = stored(first, tmp_path / "plan.parquet")
    assert next_shards([part]) == {"train": 2}
    repaired = replace(a, size_bytes=2000, attempt=2)
    second = plan_of([repaired, new], SETTINGS, next_shards([part]))
    assert min(second["shard"].to_pylist()) == "train-000002" and set(second["attempt"].to_pylist()) == {1, 2}
    assert changes([first, second], [repaired, b, new], tmp_path) == {}
    assert changes([first, second], [a, b, new], tmp_path) == {"changed": Change(1, "a.wav")}
    third = plan_of([replace(b, size_bytes=3000)], SETTINGS)
    assert changes([first, second, third], [repaired, replace(b, size_bytes=3000), new], tmp_path) == {}
    assert [part_name(i) for i in (0, 1)] == ["plan.parquet", "plan-000001.parquet"]


@pytest.mark.parametrize("folder", ["o[1]", "k*", "what?", "split=test", "path=x", "it's"])
def test_the_path_of_a_plan_is_not_a_pattern(folder: str, tmp_path: Path) -> None:
    a, b = source("a", 4), source("b", 8)
    plan, other, chosen = (tmp_path / name / "plan.parquet" for name in (folder, "o1", folder))
    for path, sources in (plan, [a]), (other, [b]), (tmp_path / "kk" / "plan.parquet", [b]):
        stored(plan_of(sources, SETTINGS), path)
    found = tmp_path / folder / "found.parquet"
    pq.write_table(listed([a, b]), found)
    assert source_changes([[plan]], [found], tmp_path).kinds == {"added": Change(1, "b.wav")}
    chosen = tmp_path / folder / "chosen.parquet"
    write_chosen([[plan]], [found], tmp_path, chosen, True, [])
    assert pq.ParquetFile(chosen).read(["path"]).to_pylist() == [{"path": "b.wav"}]
    write_chosen([[plan]], [found], tmp_path, chosen, False, ["a.wav"])
    assert pq.ParquetFile(chosen).read(["path"]).to_pylist() == [{"path": "a.wav"}]


def test_rows_of_one_shard_are_read(tmp_path: Path) -> None:
    plan = plan_of([source(f"s{i}", 10) for i in range(500)], SETTINGS)
    rows = stored(plan, tmp_path / "plan.parquet").read_shard("train-000007")
    assert rows and rows == [row for row in plan.to_pylist() if row["shard"] == "train-000007"]


def test_invalid_plan_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.parquet"
    path.write_bytes(b"PAR1 no")
    with pytest.raises(PipelineError, match=r"plan\.parquet: not a readable plan"):
        PlanPart(path, "").schema()
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(PipelineError, match=r"plan\.parquet: .*version"):
        PlanPart(path, "").schema()


def test_fingerprint_depends_only_on_codec_and_mel() -> None:
    assert replace(SETTINGS, shard_mb=3.0, corpus="x").fingerprint == SETTINGS.fingerprint
    assert replace(SETTINGS, mel=MelConfig(bands=80)).fingerprint != SETTINGS.fingerprint
    assert replace(SETTINGS, codec=replace(SETTINGS.codec, codebooks=4)).fingerprint != SETTINGS.fingerprint
