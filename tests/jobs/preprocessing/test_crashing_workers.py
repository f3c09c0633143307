"""Preprocessing with Ray's workers: too many of them, killed ones, and a file that crashes every one of them."""

import contextlib
import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray

from tests.helpers import hashes
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.preprocessing import ray_workers
from whisper_gpt.manifests.failures import read_failures
from whisper_gpt.manifests.fragments import read_samples

OPTIONS = ["--codec", "encodec_24khz_small", "--workers=0"]


@pytest.mark.slow
def test_more_workers_than_cores_finish(
    ray_cluster: None, synthetic_corpora: Path, tmp_path: Path, dataset: Path
) -> None:
    """Workers without a free core wait until another one is done, and do not block shards."""
    out = tmp_path / "out"
    arguments = ["preprocess", "synthetic", str(synthetic_corpora), "--out", str(out), "--codec", "encodec_24khz_small"]
    assert cli.main([*arguments, "--shard-mb=0.4", "--segment-s=5", "--workers=5"]) == 0
    assert hashes(out) == hashes(dataset)


@pytest.mark.usefixtures("ray_cluster")
def test_shards_of_killed_workers_are_rebuilt(
    synthetic_corpora: Path, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL to every worker after the first sources: the run continues and ends with the same bytes."""
    make_shards, killed = ray_workers.make_shards, []

    def make_shards_and_kill(*arguments: Any) -> Iterator[float]:
        for number, seconds in enumerate(make_shards(*arguments)):
            if number == 3:
                killed.extend(_kill_workers())
            yield seconds

    monkeypatch.setattr(ray_workers, "make_shards", make_shards_and_kill)
    out = tmp_path / "out"
    arguments = ["preprocess", "synthetic", str(synthetic_corpora), "--out", str(out), "--codec", "encodec_24khz_small"]
    assert cli.main([*arguments, "--shard-mb=0.4", "--segment-s=5", "--workers=2"]) == 0
    assert killed
    assert hashes(out) == hashes(dataset)  # including no stale temporary files
    events = [json.loads(line) for line in (out / "logs" / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("died") > 0


@pytest.mark.usefixtures("ray_cluster")
def test_worker_that_dies_within_a_group_of_shards_costs_only_what_it_did_not_publish(
    synthetic_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["preprocess", "synthetic", str(synthetic_corpora), "--codec", "encodec_24khz_small", "--shard-mb=0.05"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert cli.main([*arguments, "--out", str(whole), "--workers=0"]) == 0
    make_shards, seconds = ray_workers.make_shards, []

    def events() -> list[dict]:
        return [json.loads(line) for line in (out / "logs" / "events.jsonl").read_text().splitlines()]

    def make_shards_and_kill(*arguments: Any) -> Iterator[float]:
        killed = False
        for amount in make_shards(*arguments):
            if not killed and [event["event"] for event in events()].count("done") == 2:
                killed = True
                _kill_workers()
            seconds.append(amount)
            yield amount

    monkeypatch.setattr(ray_workers, "make_shards", make_shards_and_kill)
    assert cli.main([*arguments, "--out", str(out), "--workers=1"]) == 0
    assert hashes(out) == hashes(whole)
    (died,) = [event for event in events() if event["event"] == "died"]
    done = Counter(event["shard"] for event in events() if event["event"] == "done")
    begun = Counter(event["shard"] for event in events() if event["event"] == "begun")
    assert (
        len(done) > 16
        and set(done.values()) == {1}
        and {shard for shard, n in begun.items() if n > 1} == {died["shard"]}
    )
    planned = sum(pq.read_table(out / "plan.parquet", columns=["seconds"])["seconds"].to_pylist())
    assert sum(seconds) == pytest.approx(planned)


def _kill_workers() -> list[str]:
    killed = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::ShardWorker"):
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(process.name)
    return killed


@pytest.mark.usefixtures("ray_cluster")
def test_crashing_file_is_found_and_given_up(
    synthetic_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One of two files crashes workers: the shard is searched, and the other file becomes samples."""
    source = synthetic_corpora / "LibriSpeech"
    crashing_file, good = sorted(
        path.relative_to(source).as_posix() for path in (source / "test-clean").rglob("*.flac")
    )
    worker_class = ray_workers.ShardWorker

    class Fragile(worker_class):  # type: ignore[valid-type, misc]
        def _load(self) -> Any:
            import whisper_gpt.pipeline.shards.source_reader as reader

            read = reader.file_sha256

            def crash_on_file(path: Path) -> str:
                if str(path).endswith(crashing_file):
                    os.kill(os.getpid(), signal.SIGKILL)
                return read(path)

            if not hasattr(reader, "patched"):
                reader.file_sha256, reader.patched = crash_on_file, True  # type: ignore[attr-defined]
            return super()._load()

    monkeypatch.setattr(ray_workers, "WorkerActor", ray.remote(num_cpus=1)(Fragile))
    out = tmp_path / "out"
    arguments = ["preprocess", "librispeech", str(source), "--out", str(out), *OPTIONS, "--splits", "test"]
    assert cli.main([*arguments, "--max-failed=1", "--workers=2"]) == 0
    (failure,) = read_failures(out).to_pylist()
    assert (failure["source"], failure["stage"], failure["error"]) == (crashing_file, "encode", "WorkerDied")
    assert set(read_samples(out)["source"].to_pylist()) == {good}
    assert "searching for the crashing file" in capsys.readouterr().err
    assert cli.main(["verify", str(out)]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("deaths", [6, 1000])
def test_workers_that_die_at_start_up_are_started_again_for_a_while(
    deaths: int,
    synthetic_corpora: Path,
    tmp_path: Path,
    dataset: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker_class, dead = ray_workers.ShardWorker, tmp_path / "dead"
    dead.mkdir()

    class Fragile(worker_class):  # type: ignore[valid-type, misc]
        def _load(self) -> Any:
            if len(list(dead.iterdir())) < deaths:
                (dead / str(os.getpid())).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._load()

    monkeypatch.setattr(ray_workers, "WorkerActor", ray.remote(num_cpus=1)(Fragile))
    monkeypatch.setattr(ray_workers, "_FIRST_PAUSE_S", 0.2)
    out = tmp_path / "out"
    arguments = ["preprocess", "synthetic", str(synthetic_corpora), "--out", str(out), "--codec", "encodec_24khz_small"]
    status = cli.main([*arguments, "--shard-mb=0.4", "--segment-s=5", "--workers=2"])
    if deaths == 6:
        assert status == 0
        assert hashes(out) == hashes(dataset)
    else:
        assert status == 1
        assert "Ray workers die at start-up (killed, or crashed: " in capsys.readouterr().err


def test_failed_starts_pause_longer_each_time_and_count_workers_started_together_once() -> None:
    starts = ray_workers.FailedStarts()
    assert starts.pause_s(100.0) == 0
    for count, pause_s in enumerate([1.0, 2.0, 4.0, 8.0], start=1):
        started = starts.paused_until + 100.0
        now = started + 10.0
        starts = starts.after_failure(started, now)
        assert (starts.count, starts.pause_s(now)) == (count, pause_s)
        assert starts.after_failure(started, now + 60.0) == starts  # another one, which took longer to fail
    assert starts.pause_s(now + 8.0) == 0


def test_run_killed_while_writing_the_plan_can_be_rerun(
    synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".plan.parquet.0123456789ab.tmp").write_bytes(b"half")
    arguments = ["preprocess", "maestro", str(synthetic_corpora), "--out", str(tmp_path), *OPTIONS, "--splits", "test"]
    assert cli.main(arguments) == 0
    assert not list(tmp_path.rglob("*.tmp"))
