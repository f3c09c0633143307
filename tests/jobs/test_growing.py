"""Planning, extending a dataset and retrying its failures: old shards are never changed."""

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


def write_noise(path: Path, seed: int, seconds: float = 1.5) -> None:
    noise = np.random.default_rng(seed).standard_normal(round(seconds * 16_000)) * 0.1
    soundfile.write(str(path), noise, 16_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with ten sounds, one text file named .wav, and one truncated FLAC."""
    folder = tmp_path / "source"
    folder.mkdir()
    for i in range(10):
        write_noise(folder / f"sound {i}.flac", i)
    (folder / "text.wav").write_text("no audio")
    write_noise(folder / "cut.flac", 99)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:9_000])
    return folder


def preprocess(source: Path, out: Path, *options: str) -> int:
    return cli.main(["preprocess", "folder", str(source), "--out", str(out), *OPTIONS, *options])


def kept(files: dict[str, str]) -> dict[str, str]:
    """Leave out the files that describe the whole dataset, and so change when it grows."""
    return {name: data for name, data in files.items() if name != "dataset.json" and not name.startswith("index/")}


def test_extend_adds_shards_for_new_files(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert preprocess(source, out) == 0
    before, samples = hashes(out), read_samples(out)
    for i in range(10, 15):
        write_noise(source / f"sound {i}.flac", i)
    (source / "sound 3.flac").unlink()  # sources of finished samples may be deleted
    assert preprocess(source, out) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "source files are new" in line and "gone" in line and "--extend" in line
    assert hashes(out) == before
    assert preprocess(source, out, "--extend") == 0
    after = hashes(out)
    assert kept(before).items() <= after.items()
    assert {name.split("/")[0] for name in after.keys() - before.keys()} == {"plan-000001.parquet", "manifest", "train"}
    extended = read_samples(out)
    assert set(samples["source"].to_pylist()) < set(extended["source"].to_pylist())
    assert sum(split.samples for split in read_info(out).splits.values()) == extended.num_rows > samples.num_rows
    assert cli.main(["verify", str(out)]) == 0
    # Repeating the command adds nothing.
    assert preprocess(source, out, "--extend") == 0
    assert hashes(out) == after


def test_retry_failed_retries_open_failures(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert preprocess(source, out) == 0
    before, description = hashes(out), (out / "dataset.json").read_bytes()
    assert {row["source"] for row in open_failures(out).to_pylist()} == {"cut.flac", "text.wav"}
    write_noise(source / "cut.flac", 99)  # repaired; the other file is not
    assert preprocess(source, out) == 0 and hashes(out) == before  # a rerun without the option ignores the change
    assert preprocess(source, out, "--retry-failed") == 0
    after = hashes(out)
    assert kept(before).items() <= after.items()
    (failure,) = open_failures(out).to_pylist()
    assert (failure["source"], failure["attempts"], failure["stage"]) == ("text.wav", 2, "scan")
    assert read_failures(out).num_rows == 3 and read_info(out).failed_sources == 1
    assert "cut.flac" in read_samples(out)["source"].to_pylist()
    assert cli.main(["verify", str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["failed_sources"] == 1
    # If interrupted anywhere, the same command only finishes what it had planned, without a third attempt.
    for lost in ("dataset.json", "dataset.json of before", max(name for name in after if name.startswith("manifest/"))):
        (out / "dataset.json").write_bytes(description)
        if lost in after:
            (out / lost).unlink()
        assert preprocess(source, out, "--retry-failed") == 0
        assert hashes(out) == after, lost
    (source / "text.wav").unlink()  # failed sources may be deleted
    assert preprocess(source, out) == 0 and hashes(out) == after


def test_preprocess_uses_an_existing_plan(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    monkeypatch.setattr(plan, "MEASURE_S", 1.0)
    arguments = ["plan", "folder", str(source), "--out", str(out), *OPTIONS[:-1], "--workers=2"]
    assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert "core-hours" in output and "real time per core" in output and "with 2 workers" in output
    planned = hashes(out)
    assert planned.keys() == {"plan.parquet", "absent.txt"}
    assert preprocess(source, out) == 0
    assert hashes(out)["plan.parquet"] == planned["plan.parquet"]
    capsys.readouterr()
    assert cli.main(arguments) == 0
    assert "every shard of the plan" in capsys.readouterr().out


@pytest.mark.slow
def test_stopped_run_ends_soon_and_can_be_resumed(tmp_path: Path) -> None:
    """Ctrl-C, then SIGTERM end the run soon without temporary files; the final bytes equal an uninterrupted run's."""
    source = tmp_path / "source"
    source.mkdir()
    for i in range(6):
        write_noise(source / f"{i}.flac", i, seconds=60)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert preprocess(source, whole, "--shard-mb=2") == 0
    stop_at_first_shard(source, stopped, signal.SIGINT)
    stop_at_first_shard(source, stopped, signal.SIGTERM)
    assert preprocess(source, stopped, "--shard-mb=2") == 0
    assert hashes(stopped) == hashes(whole)


def stop_at_first_shard(source: Path, stopped: Path, signal_number: int) -> None:
    """Run the command in a child process and signal it once the first shard has signalled_at."""
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
        signalled_at = time.monotonic()
        _, output = process.communicate(timeout=600)
        assert time.monotonic() - signalled_at < 60
    assert process.returncode != 0 and "Traceback" not in output, output
    assert not (stopped / "dataset.json").exists() and not list(stopped.rglob("*.tmp"))
