"""The page as Streamlit builds it, without a browser: every view, filters, and one sample's details."""

import io
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from streamlit.testing.v1 import AppTest

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.benchmarks.explore_probe import script
from whisper_gpt.jobs.exploring.content import decoded, original
from whisper_gpt.jobs.exploring.manifest import as_text
from whisper_gpt.jobs.exploring.settings import Settings, dataset_at
from whisper_gpt.manifests.fragments import read_samples

HEARD = ["original", "1 codebook", "2 codebooks", "4 codebooks", "8 codebooks"]


@pytest.fixture(autouse=True)
def own_main() -> Iterator[None]:
    """Put back `__main__`, which AppTest replaces: processes that later tests spawn would run it."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


def page(*datasets: Path, runs: tuple[Path, ...] = (), sample: str = "") -> AppTest:
    settings = Settings(tuple(map(str, datasets)), tuple(map(str, runs)))
    test = AppTest.from_function(script, args=(settings.to_json(),), default_timeout=120)
    if sample:
        test.query_params["sample"] = sample
    return test.run()


def texts(test: AppTest) -> list[str]:
    assert not test.exception
    return [element.value for element in test.text]


@pytest.fixture(scope="module")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "gpt"
    options = ["--model=gpt-8m", "--width=32", "--layers=1", "--heads=2", "--steps=2", "--batch=2", "--context=64"]
    assert cli.main(["train", str(dataset), "--out", str(folder), *options]) == 0
    return folder


def test_samples_are_filtered_by_controls_and_sql(dataset: Path) -> None:
    rows = read_samples(dataset)
    test = page(dataset)
    assert f"{rows.num_rows} of {rows.num_rows} samples" in texts(test)[0]
    test.multiselect(f"split {dataset}").select("test").run()
    in_test = rows["split"].to_pylist().count("test")
    assert f"{in_test} of {rows.num_rows} samples" in texts(test)[0]
    test.text_input(f"sql {dataset}").input("duration_s > 1000").run()
    assert f"0 of {rows.num_rows} samples" in texts(test)[0]
    test.text_input(f"sql {dataset}").input("duration >").run()
    assert not test.exception and "give a condition" in test.error[0].value


def test_the_table_is_sorted_over_all_rows(dataset: Path) -> None:
    rows = read_samples(dataset).sort_by([("duration_s", "descending"), ("key", "ascending")])
    test = page(dataset)
    test.selectbox(f"order {dataset}").select("duration_s").run()
    test.checkbox(f"descending {dataset}").check().run()
    assert test.dataframe[0].value["key"].tolist() == rows["key"].to_pylist()[:100]


def test_a_sample_is_heard_and_seen(dataset: Path, run: Path) -> None:
    row = read_samples(dataset).to_pylist()[0]
    test = page(dataset, runs=(run,), sample=row["key"])
    assert row["key"] in [code.value for code in test.code] and not test.error
    assert [caption.value for caption in test.caption] == HEARD
    assert any(f"{row['split']}/{row['shard']}.tar" in text for text in texts(test))
    test.button(f"continue {run} {row['key']}").click().run()
    assert not test.error and not test.exception
    wav, rate = soundfile.read(io.BytesIO(original(str(dataset), row["shard"], row["key"]) or b""))
    assert rate == 24_000 and len(wav) == row["samples"]
    assert np.abs(wav).max() == pytest.approx(10 ** (row["peak_dbfs"] / 20), abs=1e-3)  # the level is kept
    full, _ = soundfile.read(io.BytesIO(decoded(str(dataset), row["shard"], row["key"], 8, "")))
    assert len(full) == row["samples"] and np.corrcoef(wav, full)[0, 1] > 0.5


def test_names_are_shown_as_text_never_as_markup(tmp_path: Path) -> None:
    """Whatever a corpus calls its files, nothing of it is rendered as HTML or Markdown."""
    name = "<img src=x onerror=alert(1)> **bold** [link](javascript:alert(1)).wav"
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / name.replace("/", ""), np.zeros(24_000), 24_000)
    options = ["--out", str(tmp_path / "set"), "--codec", "encodec_24khz_small", "--workers=0"]
    assert cli.main(["preprocess", "folder", str(tmp_path / "audio"), *options]) == 0
    (row,) = read_samples(tmp_path / "set").to_pylist()
    test = page(tmp_path / "set", sample=row["key"])
    assert not test.exception and len(test.caption) == 5 and "<img" in row["source"]
    rendered = [element.value for kind in (test.markdown, test.caption, test.info, test.error) for element in kind]
    assert not any("alert" in text or "**" in text for text in rendered)


def test_failures_and_how_to_retry_them(synthetic_corpora: Path, tmp_path: Path) -> None:
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / "bad.wav").write_bytes(b"not audio")
    soundfile.write(tmp_path / "audio" / "good.wav", np.zeros(24_000), 24_000)
    out, options = tmp_path / "set", ["--codec", "encodec_24khz_small", "--workers=0", "--max-failed=1"]
    assert cli.main(["preprocess", "folder", str(tmp_path / "audio"), "--out", str(out), *options]) == 0
    test = page(out)
    test.segmented_control("view").select("failures").run()
    assert "1 sources failed" in texts(test)[0]
    assert test.dataframe[0].value["stage"].tolist() == ["scan"]
    assert test.dataframe[1].value["source"].tolist() == ["bad.wav"]
    (command,) = (code.value for code in test.code if code.value.startswith("whisper-gpt preprocess --config "))
    assert command.endswith(" --retry-failed")
    assert cli.main(command.split()[1:]) == 0


def test_a_sample_is_heard_without_its_corpus(dataset: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(dataset, tmp_path / "set"))
    options = moved / "logs" / "preprocess.yaml"
    options.write_text(options.read_text().replace("source:", "source: /nowhere #"))
    test = page(moved, sample=read_samples(dataset)["key"][0].as_py())
    assert "not where it was" in texts(test) and not test.error
    assert [caption.value for caption in test.caption][1:] == [
        "1 codebook",
        "2 codebooks",
        "4 codebooks",
        "8 codebooks",
    ]


def test_a_dataset_in_a_store_is_explored(store: Any, dataset: Path) -> None:
    address = str(store.bucket() / "dataset")
    for path in dataset.rglob("*"):
        if path.is_file():
            (dataset_at(address) / path.relative_to(dataset).as_posix()).write_bytes(path.read_bytes())
    row = read_samples(dataset).to_pylist()[0]
    settings = Settings((address,))
    test = AppTest.from_function(script, args=(settings.to_json(),), default_timeout=120)
    test.query_params["sample"] = row["key"]
    test.run()
    assert f"{read_samples(dataset).num_rows} of" in texts(test)[0] and not test.error
    assert [caption.value for caption in test.caption] == HEARD
    assert any(text.startswith("s3://") and text.endswith(".tar") for text in texts(test))


def test_a_part_of_a_recording_is_compared_with_itself(dataset: Path) -> None:
    """Two sides with the same controls; and a part that the other dataset lacks."""

    def script(settings: str, row: dict) -> None:
        from whisper_gpt.jobs.exploring.comparison import side_by_side
        from whisper_gpt.jobs.exploring.settings import Settings

        parsed = Settings.from_json(settings)
        side_by_side(parsed, *parsed.datasets, row)

    row = read_samples(dataset).to_pylist()[0]
    settings = Settings((str(dataset), str(dataset))).to_json()
    test = AppTest.from_function(script, args=(settings, row), default_timeout=60).run()
    assert not test.exception and not test.error and len(test.caption) == 10
    evil = "![x](https://example.org/x.png) <b>"
    test = AppTest.from_function(script, args=(settings, row | {"source": evil}), default_timeout=60).run()
    assert texts(test) == [f"{evil} from {row['start_s']:.3f} s on is no sample of {dataset}."] and not test.markdown


def test_words_of_a_corpus_are_escaped_where_markdown_is_rendered() -> None:
    assert as_text("![x](e) **b** `c` <i> $d$") == r"\!\[x\]\(e\) \*\*b\*\* \`c\` \<i\> \$d\$"


def test_two_datasets_are_compared(dataset: Path, run: Path) -> None:
    test = page(dataset, dataset, runs=(run,))
    test.segmented_control("view").select("compare").run()
    assert not test.exception and "codec" in test.dataframe[0].value.iloc[:, 0].tolist()
    test.text_input("compared source").input("no such source").run()
    assert not test.exception and len(test.dataframe[1].value) == 0
    test.segmented_control("view").select("runs").run()
    assert not test.exception and any(name.startswith("train/") for name in test.multiselect[0].options)
