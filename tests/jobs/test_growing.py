"""A dataset that is planned, grows, and has its failures tried again: old shards are never touched."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers import hashes
from whisper_gpt.jobs import cli, plan
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.failures import open_failures, read_failures
from whisper_gpt.manifests.fragments import read_samples

OPTIONS = ["--codec", "encodec_24khz_small", "--workers=0", "--shard-mb=0.1", "--max-failed=1"]


def sound(path: Path, seed: int, seconds: float = 1.5) -> None:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * 0.1
    soundfile.write(str(path), noise, 16_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten sounds, one file that is none, and one that is cut off."""
    folder = tmp_path / "source"
    folder.mkdir()
    for i in range(10):
        sound(folder / f"sound {i}.flac", i)
    (folder / "text.wav").write_text("no audio")
    sound(folder / "cut.flac", 99)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:9_000])
    return folder


def preprocess(source: Path, out: Path, *options: str) -> int:
    return cli.main(["preprocess", "folder", str(source), "--out", str(out), *OPTIONS, *options])


def test_new_files_become_further_shards(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert preprocess(source, out) == 0
    before, samples = hashes(out), read_samples(out)
    for i in range(10, 15):
        sound(source / f"sound {i}.flac", i)
    (source / "sound 3.flac").unlink()  # what was made may go
    assert preprocess(source, out) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "source files are new" in line and "gone" in line and "--extend" in line
    assert hashes(out) == before
    assert preprocess(source, out, "--extend") == 0
    after = hashes(out)
    assert {name: data for name, data in after.items() if name in before and name != "dataset.json"} == {
        name: data for name, data in before.items() if name != "dataset.json"
    }
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"plan-000001.parquet", "manifest", "train"}
    grown = read_samples(out)
    assert set(samples["source"].to_pylist()) < set(grown["source"].to_pylist())
    assert sum(split.samples for split in read_info(out).splits.values()) == grown.num_rows > samples.num_rows
    assert cli.main(["verify", str(out)]) == 0
    # The same command again adds nothing.
    assert preprocess(source, out, "--extend") == 0
    assert hashes(out) == after


def test_failures_are_retried(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert preprocess(source, out) == 0
    before, description = hashes(out), (out / "dataset.json").read_bytes()
    assert {row["source"] for row in open_failures(out).to_pylist()} == {"cut.flac", "text.wav"}
    sound(source / "cut.flac", 99)  # mended; the other is not
    assert preprocess(source, out) == 0 and hashes(out) == before  # a plain rerun does not mind
    assert preprocess(source, out, "--retry-failed") == 0
    after = hashes(out)
    assert all(after[name] == data for name, data in before.items() if name != "dataset.json")
    (failure,) = open_failures(out).to_pylist()
    assert (failure["source"], failure["attempts"], failure["stage"]) == ("text.wav", 2, "scan")
    assert read_failures(out).num_rows == 3 and read_info(out).failed_sources == 1
    assert "cut.flac" in read_samples(out)["source"].to_pylist()
    assert cli.main(["verify", str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed_sources"] == 1
    # Cut short at any place, the same command only finishes what it had planned, and plans no third attempt.
    for lost in ("dataset.json", "dataset.json of before", max(name for name in after if name.startswith("manifest/"))):
        (out / "dataset.json").write_bytes(description)
        if lost in after:
            (out / lost).unlink()
        assert preprocess(source, out, "--retry-failed") == 0
        assert hashes(out) == after, lost
    (source / "text.wav").unlink()  # what failed may go
    assert preprocess(source, out) == 0 and hashes(out) == after


def test_preprocess_follows_the_plan(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(plan, "MEASURE_S", 1.0)
    arguments = ["plan", "folder", str(source), "--out", str(out), *OPTIONS[:-1], "--workers=2"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "core-hours" in said and "real time per core" in said and "with 2 workers" in said
    planned = hashes(out)
    assert planned.keys() == {"plan.parquet", "absent.txt"}
    assert preprocess(source, out) == 0
    assert hashes(out)["plan.parquet"] == planned["plan.parquet"]
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "every shard of the plan" in capsys.readouterr().out


@pytest.mark.slow
def test_stopped_run_ends_soon_and_resumes(tmp_path: Path) -> None:
    """By Ctrl-C, then SIGTERM: it ends soon, leaves no temporary files, and resumes to an undisturbed run's bytes."""
    source = tmp_path / "source"
    source.mkdir()
    for i in range(6):
        sound(source / f"{i}.flac", i, seconds=60)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert preprocess(source, whole, "--shard-mb=2") == 0
    stop_when_begun(source, stopped, signal.SIGINT)
    stop_when_begun(source, stopped, signal.SIGTERM)
    assert preprocess(source, stopped, "--shard-mb=2") == 0
    assert hashes(stopped) == hashes(whole)


def stop_when_begun(source: Path, stopped: Path, signal_number: int) -> None:
    """Run the command in a process of its own, and stop that when the first shard is begun."""
    command = [
        sys.executable,
        "-m",
        "whisper_gpt.jobs.cli",
        "preprocess",
        "folder",
        str(source),
        "--out",
        str(stopped),
        *OPTIONS,
        "--workers=2",
    ]
    (stopped / "logs" / "events.jsonl").unlink(missing_ok=True)
    with subprocess.Popen([*command, "--shard-mb=2"], stderr=subprocess.PIPE, text=True) as process:
        while not (stopped / "logs" / "events.jsonl").is_file() or not (stopped / "logs" / "events.jsonl").read_text():
            time.sleep(0.05)
            assert process.poll() is None
        time.sleep(0.3)
        process.send_signal(signal_number)
        begun = time.monotonic()
        _, said = process.communicate(timeout=600)
        assert time.monotonic() - begun < 60
    assert process.returncode != 0 and "Traceback" not in said, said
    assert not (stopped / "dataset.json").exists() and not list(stopped.rglob("*.tmp"))
