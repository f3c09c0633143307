"""Filtering, sorting and counting the samples of a dataset; against the same by pyarrow."""

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from whisper_gpt.jobs.benchmarks import made_corpus
from whisper_gpt.manifests.browse import COLUMNS, Browser, Filter
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.query import QueryError


def write_manifest(folder: Path, samples: int) -> None:
    made_corpus.plan(folder, "made", samples)
    made_corpus.make_shards(folder)
    made_corpus.finish(folder, "made")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> tuple[Browser, pa.Table]:
    folder = tmp_path_factory.mktemp("it's a [dataset]*")
    write_manifest(folder, 300)
    return Browser(folder), read_samples(folder)


def test_filters_agree_with_arrow(manifest: tuple[Browser, pa.Table]) -> None:
    browser, table = manifest
    speakers = tuple(sorted(set(table["speaker"].to_pylist()))[:40])
    filter = Filter("duration_s > 5", (("speaker", speakers),), (("rms_dbfs", (-35.0, -20.0)),))
    chosen = table.filter(
        (pc.field("duration_s") > 5) & pc.field("speaker").isin(speakers)
        & (pc.field("rms_dbfs") >= -35) & (pc.field("rms_dbfs") <= -20)
    )  # fmt: skip
    assert 0 < chosen.num_rows < table.num_rows == browser.count
    count, seconds = browser.totals(filter)
    assert count == chosen.num_rows and seconds == pytest.approx(pc.sum(chosen["duration_s"]).as_py())
    ordered = chosen.sort_by([("duration_s", "descending"), ("key", "ascending")]).select(COLUMNS)
    assert browser.page(filter, "duration_s", True, 5, 3).to_pylist() == ordered.slice(3, 5).to_pylist()
    bins = browser.bins("rms_dbfs", filter)
    assert sum(bins.counts) == count
    assert bins.counts == np.histogram(chosen["rms_dbfs"].to_numpy(), bins.edges)[0].tolist()
    groups = browser.groups("speaker", filter)
    assert sum(group.samples for group in groups) <= count and groups[0].samples >= groups[-1].samples


def test_a_number_is_compared_with_text_as_by_query(manifest: tuple[Browser, pa.Table]) -> None:
    browser, table = manifest
    speaker = table["speaker"][0].as_py()
    expected = pc.sum(pc.equal(table["speaker"], speaker)).as_py()
    assert browser.totals(Filter(f"speaker = {speaker} -- a comment"))[0] == expected


def test_sample_and_segments(manifest: tuple[Browser, pa.Table]) -> None:
    browser, table = manifest
    row = table.slice(11, 1).select(COLUMNS).to_pylist()[0]
    assert browser.sample(row["key"]) == row and browser.sample("no such key") is None
    assert browser.segments("made", row["source"]) == [row]
    assert browser.segments("other", row["source"]) == []


@pytest.mark.parametrize(
    "condition",
    ["speaker =", "nothing > 3", "true; DROP TABLE samples", "key IN (SELECT content FROM read_text('/etc/passwd'))"],
)
def test_other_statements_and_files_are_refused(manifest: tuple[Browser, pa.Table], condition: str) -> None:
    with pytest.raises(QueryError):
        manifest[0].totals(Filter(condition))
    assert manifest[0].totals(Filter())[0] == 300


def test_a_manifest_that_does_not_fit_is_one_error_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_manifest(tmp_path / "set", 3000)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    connect = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda name, config: connect(name, config=config | {"memory_limit": "1MB"}))
    with pytest.raises(QueryError):
        Browser(tmp_path / "set")
    assert not list((tmp_path / "here").iterdir())


def test_an_empty_dataset_is_browsed(tmp_path: Path) -> None:
    (tmp_path / "manifest").mkdir()
    browser = Browser(tmp_path)
    assert browser.totals(Filter()) == (0, 0) and browser.bins("duration_s", Filter()).counts == []
    assert browser.page(Filter(), "key", False, 10, 0).num_rows == 0 and browser.distinct("speaker") == []
