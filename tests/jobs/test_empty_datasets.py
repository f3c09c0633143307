"""Datasets in which something is empty: no failure left, no sample at all, no speaker, no text, only one split."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.jobs import cli
from whisper_gpt.manifests.failures import open_failures, read_failures
from whisper_gpt.manifests.fragments import read_samples

pytestmark = pytest.mark.usefixtures("tiny_presets")

OPTIONS = ["--codec", "encodec_24khz_small", "--max-failed=1", "--workers=0"]


def sound(path: Path, seed: int = 0, seconds: float = 1.0) -> None:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), noise, 16_000)


def preprocess(corpus: str, source: Path, out: Path, *options: str) -> int:
    return cli.main(["preprocess", corpus, str(source), "--out", str(out), *OPTIONS, *options])


def every_reader(dataset: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """What `inspect --json` says of `dataset`, once every other verb that reads one has read it without an error."""
    for arguments in (
        ["inspect", str(dataset), "--html", str(dataset.with_suffix(".html"))],
        ["verify", str(dataset)],
        ["query", str(dataset), "duration_s > 0"],
        ["query", str(dataset), "SELECT speaker, sum(duration_s) FROM samples GROUP BY speaker", "--json"],
        ["query", str(dataset), "SELECT stage, count(*) FROM failures GROUP BY stage"],
    ):
        assert cli.main(arguments) == 0, arguments
    capsys.readouterr()
    assert cli.main(["inspect", str(dataset), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_retry_that_mends_every_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for i in range(3):
        sound(source / f"{i}.wav", i)
    (source / "bad.wav").write_text("no audio")
    assert preprocess("folder", source, out) == 0 and open_failures(out).num_rows == 1
    sound(source / "bad.wav", 9)
    assert preprocess("folder", source, out, "--retry-failed") == 0
    assert open_failures(out).num_rows == 0 and read_failures(out).num_rows == 1
    assert open_failures(out).schema.equals(read_failures(out).schema)
    summary = every_reader(out, capsys)
    assert summary["failed_sources"] == 0 and summary["failures"] == []
    assert read_samples(out).num_rows == 4
    # Nothing is left to try, and nothing is planned.
    assert preprocess("folder", source, out, "--retry-failed") == 0
    assert preprocess("folder", source, out) == 0
    assert not (out / "plan-000002.parquet").exists()
    sound(source / "new.wav", 10)
    assert preprocess("folder", source, out, "--extend", "--retry-failed") == 0
    assert read_samples(out).num_rows == 5


def test_a_dataset_without_a_single_sample(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, other = tmp_path / "source", tmp_path / "out", tmp_path / "other"
    source.mkdir()
    (source / "bad.wav").write_text("no audio")
    assert preprocess("folder", source, out) == 0
    summary = every_reader(out, capsys)
    assert summary["failed_sources"] == 1 and all(split["samples"] == 0 for split in summary["splits"].values())
    for verb in (["train", str(out), "--out", str(tmp_path / "run")], ["evaluate", str(out)]):
        assert cli.main(verb) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert str(out) in line and "no samples" in line, line
    assert cli.main(["audit", str(out)]) == 0  # of the codec and the mel, on sound of its own
    # It joins another that has some, whichever comes first.
    sound(tmp_path / "sound" / "b.wav")
    assert preprocess("folder", tmp_path / "sound", other) == 0
    for i, pair in enumerate(itertools.permutations([out, other])):
        joined = tmp_path / f"joined-{i}"
        assert cli.main(["merge", *map(str, pair), "--out", str(joined)]) == 0
        assert every_reader(joined, capsys)["failed_sources"] == 1 and read_samples(joined).num_rows == 1
    # Mended, it becomes a dataset like any other.
    sound(source / "bad.wav")
    assert preprocess("folder", source, out, "--retry-failed") == 0
    assert every_reader(out, capsys)["failed_sources"] == 0 and read_samples(out).num_rows == 1


@pytest.mark.parametrize(
    ("subset", "split"), [("train-clean-100", "train"), ("dev-clean", "validation"), ("test-clean", "test")]
)
def test_a_dataset_of_one_split_without_tables(
    subset: str, split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither SPEAKERS.TXT nor transcripts: speaker_name, sex, book, text, composer and more are empty everywhere."""
    source, out = tmp_path / "source", tmp_path / "out"
    sound(source / subset / "19" / "198" / "19-198-0000.flac")
    assert preprocess("librispeech", source, out) == 0
    summary = every_reader(out, capsys)
    assert list(summary["splits"]) == [split] and summary["composers"] == [] and len(summary["speakers"]) == 1
    run = tmp_path / "run"
    train = ["train", str(out), "--out", str(run), "--steps=1", "--context=16", "--batch=1"]
    assert cli.main(train) == (0 if split == "train" else 1)
    for scored in ("train", "validation", "test"):
        capsys.readouterr()
        code = cli.main(["evaluate", str(out), "--split", scored])
        assert code == (0 if scored == split == "train" else 1)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and (code == 0 or str(out) in lines[0])


def test_a_dataset_without_speakers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    sound(source / "a.wav")
    assert preprocess("folder", source, out) == 0
    summary = every_reader(out, capsys)
    assert summary["speakers"] == summary["composers"] == []
    assert preprocess("folder", source, tmp_path / "held", "--hold-out", "0.1", "0.1") == 1
    assert "no training recording" in capsys.readouterr().err
