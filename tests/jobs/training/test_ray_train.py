"""Training on several ranks: equal steps over uneven shards, a killed worker, a signal to the driver."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch

from whisper_gpt.jobs.inference.run_folder import checkpoints, newest_checkpoint, read_state
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.model.checkpoint import load_safetensors

pytestmark = pytest.mark.slow

OPTIONS = [
    *("--model=gpt-4m", "--width=64", "--layers=2", "--heads=2", "--context=32", "--batch=2"),
    *("--save-every=5", "--clip-s=0", "--eval-batches=2"),
]

RANK = """
import json, sys
import torch.distributed as dist
from whisper_gpt.pipeline.loading.stream import StreamConfig, stream
from whisper_gpt.jobs.training.distributed import Ranks
import torch

dataset, rank, world_size, steps, meeting = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world_size)
ranks = Ranks(rank, world_size, torch.device("cpu"))
node = stream(dataset, "train", StreamConfig(context=20, batch=3, rank=rank, world_size=world_size, shards_per_group=1))
windows, counts = [], []
for step in range(steps):
    batch = next(node)
    windows += [[keys[0], starts[0]] for keys, starts in zip(batch.keys, batch.starts)]
    counts.append(ranks.sum([1.0])[0])
print(json.dumps({"windows": windows, "counts": counts, "position": node.state_dict()}))
"""


def make_uneven(dataset: Path, folder: Path) -> Path:
    """A copy of the dataset with all but one sample of every second shard removed from the manifest."""
    copy = Path(shutil.copytree(dataset, folder / "uneven"))
    for fragment in sorted((copy / "manifest").glob("train-*.parquet"))[::2]:
        pq.write_table(pq.read_table(fragment).slice(0, 1), fragment)
    info = json.loads((copy / "dataset.json").read_text())
    info["splits"]["train"]["samples"] = read_samples(copy, "train").num_rows
    (copy / "dataset.json").write_text(json.dumps(info))
    shutil.rmtree(copy / "index")  # it tells of the samples removed
    return copy


def test_two_ranks_take_equal_steps_over_uneven_shards(dataset: Path, tmp_path: Path) -> None:
    copy = make_uneven(dataset, tmp_path)
    frames = read_samples(copy, "train")["frames"].to_pylist()
    per_epoch = sum(-(-f // 20) for f in frames)
    steps = 2 * per_epoch // 6 + 1  # of 2 × 3 windows: just over two epochs
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(copy), str(rank), "2", str(steps), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = [json.loads(process.communicate(timeout=600)[0]) for process in processes]
    assert all(result["counts"] == [2.0] * steps for result in results)
    assert results[0]["position"] == results[1]["position"]
    in_order = [
        tuple(window)
        for step in range(steps)
        for result in results
        for window in result["windows"][3 * step : 3 * step + 3]
    ]
    for epoch in range(2):
        windows = Counter(in_order[epoch * per_epoch : (epoch + 1) * per_epoch])
        assert len(windows) == per_epoch and set(windows.values()) == {1}


def start(dataset: Path, out: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "whisper_gpt.jobs.cli", "train", str(dataset), "--out", str(out), "--workers=2"]
    return subprocess.Popen([*command, *OPTIONS, *options], stderr=subprocess.PIPE, text=True)


def await_checkpoint(run: Path, process: subprocess.Popen, step: int) -> None:
    """Wait until the run has a checkpoint at `step` or later."""
    deadline = time.monotonic() + 600
    while not any(int(path.name.removeprefix("step-")) >= step for path in checkpoints(run)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def await_workers(process: subprocess.Popen) -> list[psutil.Process]:
    """Wait until Ray Train has started the run's workers."""
    deadline = time.monotonic() + 600
    while True:
        workers = [p for p in psutil.process_iter(["cmdline"]) if "RayTrainWorker" in " ".join(p.info["cmdline"] or [])]
        if workers_of_run := [p for p in workers if any(parent.pid == process.pid for parent in p.parents())]:
            return workers_of_run
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_safetensors(newest_checkpoint(run) / "model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ranks") / "run"
    process = start(dataset, run, "--steps=40")
    assert process.wait(600) == 0, process.communicate()[1]
    return run


def test_run_with_a_killed_worker_has_the_same_weights(uninterrupted: Path, dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(dataset, run, "--steps=40")
    worker = await_workers(process)[0]  # look it up before the checkpoint, because the run ends soon after
    await_checkpoint(run, process, 5)
    worker.kill()
    output = process.communicate(timeout=600)[1]
    assert process.returncode == 0, output
    assert "resuming from step" in output
    assert read_state(newest_checkpoint(run)).stream == read_state(newest_checkpoint(uninterrupted)).stream
    actual, expected = weights(run), weights(uninterrupted)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert not (run / ".stop").exists() and not (run / ".ray").exists()


def test_worker_errors_are_one_line_and_paths_may_be_relative(
    uninterrupted: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resuming a run with another context, under a relative path: workers refuse it in one line, without retries."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(uninterrupted, tmp_path / "runs" / "relative")
    shutil.copytree(dataset, tmp_path / "dataset")
    process = start(Path("dataset"), Path("runs/relative"), "--steps=45", "--resume", "--context=16")
    output = process.communicate(timeout=600)[1]
    assert process.returncode == 1 and "was trained with context 32, not 16" in output.splitlines()[-1]
    process = start(Path("dataset"), Path("runs/relative"), "--steps=42", "--resume")
    output = process.communicate(timeout=600)[1]
    assert process.returncode == 0, output
    assert read_state(newest_checkpoint(tmp_path / "runs" / "relative")).step == 42


def test_signal_stops_all_ranks_with_a_checkpoint(dataset: Path, tmp_path: Path) -> None:
    """One process resumes where two ranks stopped. The run is so long that only the signal ends it."""
    run = tmp_path / "run"
    process = start(dataset, run, "--steps=100000")
    await_checkpoint(run, process, 5)
    os.kill(process.pid, signal.SIGTERM)
    output = process.communicate(timeout=600)[1]
    assert process.returncode == 1 and str(run) in output
    stopped = read_state(newest_checkpoint(run))
    assert 5 <= stopped.step < 100_000
    command = [sys.executable, "-m", "whisper_gpt.jobs.cli", "train", "--out", str(run), "--resume", "--workers=1"]
    subprocess.run([*command, f"--steps={stopped.step + 20}"], check=True)
    resumed = read_state(newest_checkpoint(run))
    assert resumed.step == stopped.step + 20
    # Two ranks took 2 × 2 windows per step, one takes 2.
    assert _position(resumed.stream) == 4 * stopped.step + 2 * 20


def _position(state: Any) -> int:
    """The stream's position within its nested state dict: windows taken, and steps since then."""
    match = re.search(r"'position': (\d+)", str(state))
    assert match
    return int(match[1])
