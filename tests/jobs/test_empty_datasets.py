"""Datasets in which something is empty: no failures, no samples, no speakers, no text, only one split."""

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


def write_noise(path: Path, seed: int = 0, seconds: float = 1.0) -> None:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * 0.1
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(str(path), noise, 16_000)


def preprocess(corpus: str, source: Path, out: Path, *options: str) -> int:
    return cli.main(["preprocess", corpus, str(source), "--out", str(out), *OPTIONS, *options])


def read_with_every_verb(dataset: Path, capsys: pytest.CaptureFixture[str]) -> dict:
    """Run every verb that reads a dataset, then return the output of `inspect --json`."""
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


def test_retry_can_resolve_every_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    for i in range(3):
        write_noise(source / f"{i}.wav", i)
    (source / "bad.wav").write_text("no audio")
    assert preprocess("folder", source, out) == 0 and open_failures(out).num_rows == 1
    write_noise(source / "bad.wav", 9)
    assert preprocess("folder", source, out, "--retry-failed") == 0
    assert open_failures(out).num_rows == 0 and read_failures(out).num_rows == 1
    assert open_failures(out).schema.equals(read_failures(out).schema)
    summary = read_with_every_verb(out, capsys)
    assert summary["failed_sources"] == 0 and summary["failures"] == []
    assert read_samples(out).num_rows == 4
    # With nothing left to retry, nothing is planned.
    assert preprocess("folder", source, out, "--retry-failed") == 0
    assert preprocess("folder", source, out) == 0
    assert not (out / "plan-000002.parquet").exists()
    write_noise(source / "new.wav", 10)
    assert preprocess("folder", source, out, "--extend", "--retry-failed") == 0
    assert read_samples(out).num_rows == 5


def test_dataset_without_samples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out, other = tmp_path / "source", tmp_path / "out", tmp_path / "other"
    source.mkdir()
    (source / "bad.wav").write_text("no audio")
    assert preprocess("folder", source, out) == 0
    summary = read_with_every_verb(out, capsys)
    assert summary["failed_sources"] == 1 and all(split["samples"] == 0 for split in summary["splits"].values())
    for verb in (["train", str(out), "--out", str(tmp_path / "run")], ["evaluate", str(out)]):
        assert cli.main(verb) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert str(out) in line and "no samples" in line, line
    assert cli.main(["audit", str(out)]) == 0  # of codec and mel, on a synthetic clip
    # It can be merged with a non-empty dataset, in either order.
    write_noise(tmp_path / "sound" / "b.wav")
    assert preprocess("folder", tmp_path / "sound", other) == 0
    for i, pair in enumerate(itertools.permutations([out, other])):
        merged = tmp_path / f"joined-{i}"
        assert cli.main(["merge", *map(str, pair), "--out", str(merged)]) == 0
        assert read_with_every_verb(merged, capsys)["failed_sources"] == 1 and read_samples(merged).num_rows == 1
    # After the file is repaired, it becomes a normal dataset.
    write_noise(source / "bad.wav")
    assert preprocess("folder", source, out, "--retry-failed") == 0
    assert read_with_every_verb(out, capsys)["failed_sources"] == 0 and read_samples(out).num_rows == 1


@pytest.mark.parametrize(
    ("subset", "split"), [("train-clean-100", "train"), ("dev-clean", "validation"), ("test-clean", "test")]
)
def test_dataset_with_one_split_and_no_metadata(
    subset: str, split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without SPEAKERS.TXT and transcripts, speaker_name, sex, book, text, composer and more are empty in every row."""
    source, out = tmp_path / "source", tmp_path / "out"
    write_noise(source / subset / "19" / "198" / "19-198-0000.flac")
    assert preprocess("librispeech", source, out) == 0
    summary = read_with_every_verb(out, capsys)
    assert list(summary["splits"]) == [split] and summary["composers"] == [] and len(summary["speakers"]) == 1
    run = tmp_path / "run"
    train = ["train", str(out), "--out", str(run), "--steps=1", "--context=16", "--batch=1"]
    assert cli.main(train) == (0 if split == "train" else 1)
    for split_to_score in ("train", "validation", "test"):
        capsys.readouterr()
        code = cli.main(["evaluate", str(out), "--split", split_to_score])
        assert code == (0 if split_to_score == split == "train" else 1)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and (code == 0 or str(out) in lines[0])


def test_dataset_without_speakers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    write_noise(source / "a.wav")
    assert preprocess("folder", source, out) == 0
    summary = read_with_every_verb(out, capsys)
    assert summary["speakers"] == summary["composers"] == []
    assert preprocess("folder", source, tmp_path / "held", "--hold-out", "0.1", "0.1") == 1
    assert "no training recording" in capsys.readouterr().err
