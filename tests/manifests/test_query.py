"""SQL over the manifest: results, refusals, and other Parquet readers opening the same folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from upath import UPath

from whisper_gpt.jobs import cli, query
from whisper_gpt.manifests.failures import failures_bytes, failures_path
from whisper_gpt.manifests.fragments import MANIFEST_FOLDER, fragment_path, read_samples
from whisper_gpt.manifests.query import as_sql, ask, seal
from whisper_gpt.manifests.schema import SAMPLES

Query = Callable[..., list[dict]]


@pytest.fixture
def query_rows(dataset: Path, capsys: pytest.CaptureFixture[str]) -> Query:
    """Run `whisper-gpt query --json` on the dataset with a query and options; return the rows."""

    def run(sql: str, *options: str) -> list[dict]:
        assert cli.main(["query", str(dataset), sql, "--json", *options]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture
def query_error(dataset: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], str]:
    """Run `whisper-gpt query` with an invalid query; return its one-line error."""

    def run(sql: str) -> str:
        assert cli.main(["query", str(dataset), sql]) == 1
        out, line = capsys.readouterr()
        assert not out and line.startswith("whisper-gpt query: ") and line.count("\n") == 1
        return line

    return run


@pytest.fixture
def wide_console(monkeypatch: pytest.MonkeyPatch) -> None:
    """A console wide_console enough that no cell is wrapped."""
    monkeypatch.setattr(query, "Console", lambda: Console(width=400))


def expected_rows(dataset: Path, condition: pc.Expression) -> list[dict]:
    return read_samples(dataset).filter(condition).to_pylist()


def write_manifest(folder: Path, rows: list[dict]) -> Path:
    """Write a manifest with `rows`, other columns empty; return the dataset's folder."""
    (folder / MANIFEST_FOLDER).mkdir(parents=True)
    empty = {f.name: "" if pa.types.is_string(f.type) else 0 for f in SAMPLES}
    table = pa.Table.from_pylist([empty | row for row in rows], schema=SAMPLES)
    pq.write_table(table, fragment_path(folder, "train-000000"))
    return folder


def test_condition_selects_matching_samples(dataset: Path, query_rows: Query) -> None:
    rows = query_rows("composer = '' and duration_s > 4.5")
    expected = expected_rows(dataset, (pc.field("composer") == "") & (pc.field("duration_s") > 4.5))
    names = ["key", "duration_s", "speaker", "text", "source"]
    assert rows and rows == [{name: row[name] for name in names} for row in expected]
    assert all(list(row) == names for row in rows)


def test_columns_option_selects_columns(dataset: Path, query_rows: Query) -> None:
    rows = query_rows("composer <> '' order by key desc", "--columns", "key", "title")
    expected = expected_rows(dataset, pc.field("composer") != "")
    assert rows == [
        {"key": row["key"], "title": row["title"]} for row in sorted(expected, key=lambda r: r["key"])[::-1]
    ]


@pytest.mark.parametrize("start", ["SELECT * FROM samples", "from samples", "\nWith s as (from samples) from s"])
def test_full_queries_run_unchanged(start: str, dataset: Path, query_rows: Query) -> None:
    assert query_rows(f"{start} WHERE split = 'train'") == expected_rows(dataset, pc.field("split") == "train")


def test_aggregates_match_the_manifest(dataset: Path, query_rows: Query) -> None:
    samples = read_samples(dataset)
    expected = samples.group_by("split").aggregate([("frames", "sum"), ("duration_s", "sum")]).sort_by("split")
    rows = query_rows(
        "SELECT split, sum(frames) AS frames, sum(duration_s) AS s FROM samples GROUP BY split ORDER BY split"
    )
    assert [(row["split"], row["frames"]) for row in rows] == [
        (row["split"], row["frames_sum"]) for row in expected.to_pylist()
    ]
    assert [row["s"] for row in rows] == pytest.approx(expected["duration_s_sum"].to_pylist())


@pytest.mark.parametrize("number", ["{}", "'{}'", "\t{} "])
def test_number_compares_with_text_column_with_other_values(number: str, dataset: Path, query_rows: Query) -> None:
    speakers = read_samples(dataset)["speaker"].to_pylist()
    speaker = max(speakers)
    assert "" in speakers and speaker.isdecimal()
    rows = query_rows(f"speaker = {number.format(speaker)} and duration_s > 1")
    assert rows and rows == [row for row in query_rows("duration_s > 1") if row["speaker"] == speaker]
    assert query_rows(f"SELECT key FROM samples s WHERE s.Speaker IN ({speaker}, 7)") == [
        {"key": r["key"]} for r in rows
    ]
    assert len(query_rows(f'"speaker" != {speaker}')) == len(speakers) - speakers.count(speaker)


def test_documented_example_finds_a_librispeech_speaker(tmp_path: Path) -> None:
    rows = [("19", 15.0), ("19", 9.0), ("", 11.0), ("abc", 12.0), ("198", 13.0), ("019", 14.0)]
    folder = write_manifest(tmp_path, [{"speaker": s, "duration_s": d, "key": f"{s} {d}"} for s, d in rows])
    for condition in ("speaker = 19 and duration_s > 10", "speaker = '19' and duration_s > 10"):
        assert list(ask(folder, as_sql(condition, ["key"])).rows) == [("19 15.0",)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'speaker = 19', 'it''s speaker = 19' -- speaker = 19",
        "SELECT length(speaker) = 2 FROM samples",
        "FROM samples WHERE year = 19 AND frames in (1, 2) AND speaker = '19'",
        "FROM samples WHERE text = 19.5 OR text = 1e9 OR my_text = 19",
    ],
)
def test_other_numbers_are_not_rewritten(sql: str) -> None:
    assert as_sql(sql) == sql


def test_number_aliased_as_a_text_column_stays_a_number(query_rows: Query) -> None:
    assert query_rows("SELECT 19 AS speaker, 1.0 AS one FROM range(2) WHERE speaker = 19")[0]["speaker"] == 19
    assert query_rows("WITH t AS (SELECT 7 AS chapter) FROM t WHERE chapter IN (7, 8)") == [{"chapter": 7}]


def test_failures_can_be_queried_and_joined(dataset: Path, tmp_path: Path, query_rows: Query) -> None:
    assert query_rows("FROM failures") == []
    folder = tmp_path / "dataset"
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns("*.tar"))
    source = read_samples(dataset)["source"][0].as_py()
    row = {"source": source, "corpus": "c", "split": "train", "seconds": 2.5, "stage": "decode"}
    failures_path(folder, "train-000000").parent.mkdir(exist_ok=True)
    failures_path(folder, "train-000000").write_bytes(
        failures_bytes([row | {"error": "E", "message": "m", "attempts": 1}])
    )
    assert list(ask(folder, "SELECT stage, sum(seconds) FROM failures GROUP BY ALL").rows) == [("decode", 2.5)]
    both = ask(folder, "SELECT s.source, f.source, f.stage FROM samples s JOIN failures f USING (source) LIMIT 1")
    assert both.columns == ["source", "source_1", "stage"]
    assert list(both.rows) == [(source, source, "decode")]


@pytest.mark.parametrize(
    "statement",
    [
        "COPY samples TO '{}'",
        "SELECT 1; COPY samples TO '{}'",
        "true; COPY samples TO '{}'",
        "WITH s AS (FROM samples) INSERT INTO failures FROM s",
        "ATTACH '{}'",
        "SELECT 1; ATTACH '{}'",
        "EXPORT DATABASE '{}'",
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/etc/passwd')",
        "FROM '/etc/passwd'",
        "FROM glob('/etc/*')",
        "key IN (SELECT content FROM read_text('/etc/passwd'))",
        "SET threads = 1",
        "SELECT 1; SET enable_external_access = true",
        "SELECT 1; INSTALL httpfs",
        "SELECT 1; CREATE TABLE t AS FROM samples",
        "FROM statements",
        "",
    ],
)
def test_queries_can_only_read_the_tables(
    statement: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query_error: Callable[[str], str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "root:" not in query_error(statement.format(tmp_path / "file"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "setting", ["enable_external_access = true", "lock_configuration = false", "temp_directory = '.'"]
)
def test_connection_settings_are_locked(setting: str) -> None:
    connection = duckdb.connect(":memory:")
    seal(connection)
    with pytest.raises(duckdb.Error, match=r"locked|disabled"):
        connection.execute(f"SET {setting}")


def test_query_errors_name_the_problem(query_error: Callable[[str], str]) -> None:
    line = query_error("seconds > 10")
    assert '"seconds" not found' in line and "columns of samples: key, corpus" in line and "LINE 1" not in line
    assert "of failures: source, corpus" in line
    assert "a condition on samples, or SELECT" in query_error("duration_s >")
    assert "samples and failures" in query_error("FROM sample")
    assert "speaker = '19'" in query_error("lower(speaker) = 19")


def test_invalid_columns_and_limits_are_usage_errors(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["query", str(dataset), "FROM samples", "--columns", "key"]) == 2
    assert "--columns" in capsys.readouterr().err
    assert cli.main(["query", str(dataset), "true", "--limit=-1"]) == 2
    assert "--limit -1" in capsys.readouterr().err


def test_query_of_a_non_dataset_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["query", str(tmp_path), "true"]) == 1
    assert "is this the folder of a dataset?" in capsys.readouterr().err


@pytest.mark.usefixtures("wide_console")
def test_limit_reports_the_total_row_count(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = read_samples(dataset)["key"].to_pylist()
    assert len(keys) > 20
    for options, shown in (
        ([], 20),
        (["--limit", "3"], 3),
        (["--limit", "0"], len(keys)),
        (["--limit=999"], len(keys)),
    ):
        assert cli.main(["query", str(dataset), "true", *options]) == 0
        out = capsys.readouterr().out
        assert [key for key in keys if f"│ {key} " in out] == keys[:shown]
        footer = f"{len(keys)} rows" if shown == len(keys) else f"{shown} of {len(keys)} rows, --limit 0 shows all"
        assert out.splitlines()[-1] == footer


@pytest.mark.usefixtures("wide_console")
def test_cells_are_printed_without_markup(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = "SELECT '[red]x' AS \"[b]a\", NULL AS n, 1.23456e0 AS f, 0.0001234e0 AS g, 1.23456 AS d, 3 AS i"
    assert cli.main(["query", str(dataset), row]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[1].split("┃")[1:-1]] == ["[b]a", "n", "f", "g", "d", "i"]
    assert [cell.strip() for cell in lines[3].split("│")[1:-1]] == ["[red]x", "", "1.235", "0.000123", "1.23456", "3"]
    assert lines[-1] == "1 row"
    assert cli.main(["query", str(dataset), "false"]) == 0
    assert capsys.readouterr().out == "0 rows\n"


def test_json_output_has_all_rows_and_only_json(dataset: Path, query_rows: Query) -> None:
    assert len(query_rows("true", "--limit", "2")) == read_samples(dataset, columns=["key"]).num_rows
    row = "SELECT 'NaN'::DOUBLE AS n, DATE '2024-01-02' AS d, 1.5::DECIMAL(4,1) AS x, [1, 2] AS l, 'é' AS e, NULL AS z"
    assert query_rows(row) == [{"n": None, "d": "2024-01-02", "x": 1.5, "l": [1, 2], "e": "é", "z": None}]


def test_damaged_fragment_is_a_one_line_error(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "dataset"
    shutil.copytree(dataset, folder, ignore=shutil.ignore_patterns("*.tar"))
    fragment_path(folder, read_samples(dataset)["shard"][0].as_py()).write_bytes(b"PAR1 cut off")
    assert cli.main(["query", str(folder), "speaker = 19"]) == 1
    line = capsys.readouterr().err
    assert "whisper-gpt verify" in line and line.count("\n") == 1


def test_query_works_in_an_object_store(dataset: Path) -> None:
    store = UPath("memory://test-query/dataset")
    for path in (dataset / MANIFEST_FOLDER).iterdir():
        (store / MANIFEST_FOLDER / path.name).write_bytes(path.read_bytes())
    sql = as_sql("duration_s > 2 order by key")
    assert list(ask(store, sql).rows) == list(ask(dataset, sql).rows) != []


def read_with_pyarrow(folder: Path) -> tuple[int, float]:
    table = pads.dataset(folder, format="parquet").to_table(columns=["duration_s"])
    return table.num_rows, pc.sum(table["duration_s"]).as_py()


def read_with_pandas(folder: Path) -> tuple[int, float]:
    frame = pd.read_parquet(folder)
    return len(frame), frame["duration_s"].sum()


def read_with_polars(folder: Path) -> tuple[int, float]:
    counted = pl.scan_parquet(folder / "*.parquet").select(pl.len(), pl.col("duration_s").sum())
    return counted.collect().row(0)


def read_with_duckdb(folder: Path) -> tuple[int, float]:
    with duckdb.connect() as connection:
        result = connection.execute("SELECT count(*), sum(duration_s) FROM read_parquet($1)", [f"{folder}/*.parquet"])
        return result.fetchall()[0]


@pytest.mark.parametrize("reader", [read_with_pyarrow, read_with_pandas, read_with_polars, read_with_duckdb])
def test_other_parquet_readers_open_the_manifest(reader: Callable[[Path], tuple[int, float]], dataset: Path) -> None:
    durations = read_samples(dataset)["duration_s"]
    rows, seconds = reader(dataset / MANIFEST_FOLDER)
    assert rows == len(durations) > 0
    assert seconds == pytest.approx(pc.sum(durations).as_py(), rel=1e-12)
