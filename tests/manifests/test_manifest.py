"""Manifest, statistics and dataset.json of a dataset, and errors for damaged ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from whisper_gpt.manifests.dataset_info import DatasetInfo, SplitTotals, add_up, info_bytes, read_info
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import (
    ShardRecord,
    committed_shards,
    fragment_bytes,
    read_record,
    read_records,
    read_samples,
)
from whisper_gpt.manifests.report import page
from whisper_gpt.manifests.schema import SAMPLES
from whisper_gpt.manifests.statistics import LEVEL_EDGES_DBFS, code_usage, groups, histogram
from whisper_gpt.manifests.summary import summarise


def record(split: str, mel: np.ndarray, counts: np.ndarray) -> ShardRecord:
    return ShardRecord(
        shard=f"{split}-000000",
        split=split,
        sha256="0",
        size_bytes=1,
        fingerprint="f",
        plan_sha256="p",
        samples=1,
        frames=len(mel),
        seconds=1.0,
        mel_sums=np.stack([mel.sum(axis=0), np.square(mel).sum(axis=0)]),
        code_counts=counts,
    )


def test_fragment_round_trip_is_deterministic(tmp_path: Path) -> None:
    saved = record("train", np.random.default_rng(0).standard_normal((9, 4)), np.arange(6).reshape(2, 3))
    data = fragment_bytes(SAMPLES.empty_table(), saved)
    assert data == fragment_bytes(SAMPLES.empty_table(), saved)
    (tmp_path / "f.parquet").write_bytes(data)
    loaded = read_record(tmp_path / "f.parquet")
    assert np.array_equal(loaded.mel_sums, saved.mel_sums) and np.array_equal(loaded.code_counts, saved.code_counts)
    assert (loaded.shard, loaded.frames, loaded.seconds) == (saved.shard, saved.frames, saved.seconds)


def test_manifest_has_one_row_per_sample(dataset: Path) -> None:
    table, info = read_samples(dataset), read_info(dataset)
    assert table.schema.equals(SAMPLES)
    assert table.num_rows == sum(t.samples for t in info.splits.values()) == len(set(table["key"].to_pylist()))
    for row in table.to_pylist():
        assert row["frames"] == -(-row["samples"] // 320)
        assert row["duration_s"] == row["samples"] / 24_000 and len(row["source_sha256"]) == 64
    assert committed_shards(dataset) == set(table["shard"].to_pylist())


def test_long_sources_become_consecutive_segments(dataset: Path) -> None:
    pieces: dict[str, list[dict]] = {}
    for row in read_samples(dataset).to_pylist():
        if row["composer"]:
            pieces.setdefault(row["source"], []).append(row)
    for rows in pieces.values():
        assert [r["segment"] for r in rows] == [0, 1]
        assert [r["start_s"] for r in rows] == [0.0, 5.0]
        assert sum(r["duration_s"] for r in rows) == pytest.approx(8.0, abs=1e-3)
        assert len({r["shard"] for r in rows}) == 1


def test_mel_statistics_match_the_training_split(dataset: Path) -> None:
    import webdataset as wds

    tars = sorted(str(path) for path in (dataset / "train").glob("*.tar"))
    samples = wds.WebDataset(tars, shardshuffle=False).decode()
    mel = np.concatenate([sample["mel.npy"].astype(np.float64) for sample in samples])
    info = read_info(dataset)
    assert np.allclose(info.mel_mean, mel.mean(axis=0), atol=1e-5)
    assert np.allclose(info.mel_std, mel.std(axis=0), atol=1e-5)


def test_mel_statistics_fall_back_to_all_splits() -> None:
    mel = np.array([[1.0, 2.0], [3.0, 6.0]])
    mean, deviation = add_up([record("test", mel, np.zeros((1, 2), np.int64))]).mel_statistics()
    assert mean == [2.0, 4.0] and deviation == [1.0, 2.0]
    assert add_up([]).mel_statistics() == ([], [])


def test_code_usage() -> None:
    counts = np.array([[4, 4, 0, 0], [1, 1, 1, 1]])
    first, second = code_usage(counts)
    assert (first.used, first.size, first.entropy_bits) == (2, 4, 1.0)
    assert (second.used, second.entropy_bits) == (4, 2.0)


def test_totals_are_summed_per_split() -> None:
    counts, mel = np.ones((1, 2), np.int64), np.ones((3, 2))
    empty = replace(record("test", mel[:0], 0 * counts), samples=0, seconds=0.0, size_bytes=0)
    totals = add_up([record("test", mel, counts), record("train", mel, counts), record("train", mel, counts), empty])
    assert list(totals.splits) == ["train", "test"]
    assert totals.splits["train"] == SplitTotals(samples=2, seconds=2.0, frames=6, shards=2)
    assert totals.splits["test"] == SplitTotals(samples=1, seconds=1.0, frames=3, shards=1)  # the empty one has no tar
    assert totals.code_counts is not None and totals.code_counts.tolist() == [[3, 3]]


def test_histograms_include_outliers() -> None:
    bins = histogram(pa.chunked_array([[-5.0, 0.0, 0.5, 1.0, 99.0]]), (0, 1, 2, float("inf")))
    assert bins.counts == [3, 1, 1]


def test_levels_above_full_scale_have_their_own_bin() -> None:
    bins = histogram(pa.chunked_array([[87.0, 0.0, -3.0, -200.0]]), LEVEL_EDGES_DBFS)
    assert (bins.counts[0], bins.counts[-2], bins.counts[-1]) == (1, 2, 1)


def test_groups_are_sorted_by_duration_without_empty_names() -> None:
    table = pa.table({"key": ["a", "b", "c"], "speaker": ["x", "y", ""], "duration_s": [1.0, 3.0, 9.0]})
    assert [(g.name, g.samples, g.seconds) for g in groups(table, "speaker")] == [("y", 1, 3.0), ("x", 1, 1.0)]


def test_report_page_is_self_contained(dataset: Path) -> None:
    content = page("a <name>", summarise(dataset), [])
    assert "a &lt;name&gt;" in content and "data:image/png;base64," in content
    assert "http" not in content and "src=" in content and 'src="data:' in content
    assert content.count("src=") == content.count('src="data:')


def test_dataset_json_round_trip(tmp_path: Path) -> None:
    info = DatasetInfo(
        "c", "f", {"name": "x"}, {}, 5, ["p"], {"train": SplitTotals(1, 2.0, 3, 4)}, 0, 0.0, 0, [0.5], [1.0]
    )
    (tmp_path / "dataset.json").write_bytes(info_bytes(info))
    assert read_info(tmp_path) == info


@pytest.mark.parametrize(
    "content", [None, "{", "[]", '{"format": "other"}', '{"format": "whisper-gpt dataset 4", "splits": {}}']
)
def test_invalid_dataset_json_is_named(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "dataset.json").write_text(content)
    with pytest.raises(ManifestError, match=r"dataset\.json"):
        read_info(tmp_path)


def test_damaged_fragment_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "manifest"
    folder.mkdir()
    (folder / "train-000000.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(ManifestError, match="train-000000"):
        list(read_records(tmp_path))
    pq.write_table(pa.table({"a": [1]}), folder / "train-000000.parquet")
    with pytest.raises(ManifestError, match=r"train-000000\.parquet"):
        list(read_records(tmp_path))


def test_summary_is_plain_json(dataset: Path) -> None:
    content = json.loads(json.dumps(summarise(dataset).as_dict(), allow_nan=False))
    assert set(content) >= {"corpus", "codec", "mel", "splits", "failures"}
    assert content["splits"]["train"].keys() == {"samples", "seconds", "frames", "shards"}
    assert content["durations_s"]["edges"][-1] is None


def test_unreadable_fragment_does_not_count_as_uncommitted(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path) -> None:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("whisper_gpt.manifests.fragments.open_for_seeking", failing)
    with pytest.raises(OSError, match="Input/output error"):
        committed_shards(dataset)
