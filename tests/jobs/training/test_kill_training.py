"""Runs that are killed at random moments and resumed equal an uninterrupted run, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from whisper_gpt.jobs.inference.run_folder import newest_checkpoint, read_state
from whisper_gpt.model.checkpoint import load_safetensors

pytestmark = pytest.mark.slow

STEPS, KILLS = 200, 20
OPTIONS = [
    *("--model=hybrid-4m", "--width=64", "--layers=2", "--heads=2", "--context=16", "--batch=2", "--accumulate=2"),
    *("--deterministic", "--ema=0.9"),
    *(f"--steps={STEPS}", "--save-every=7", "--eval-every=50", "--eval-batches=1", "--clip-s=0"),
]

# Imports once and forks for each attempt, because importing torch takes a fresh interpreter seconds. Each attempt is
# killed a random moment after the run nears a random step, so that all kills happen on any machine.
KILLER = """
import os, random, signal, sys, time
import whisper_gpt.jobs.train
from whisper_gpt.jobs import cli

out, number, kills, options = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]
moments, killed = random.Random(number), 0
targets = sorted(moments.sample(range(150), kills))

def newest():
    try:
        return max(int(name[5:]) for name in os.listdir(out + "/checkpoints") if name.startswith("step-"))
    except (FileNotFoundError, ValueError):
        return 0

while True:
    child = os.fork()
    if child == 0:
        resume = ["--resume"] if os.path.isdir(out + "/checkpoints") and os.listdir(out + "/checkpoints") else []
        os._exit(cli.main(["train", *options, "--out", out, *resume]))
    if killed < kills:
        while newest() < targets[killed] - 7:
            time.sleep(0.005)
        time.sleep(moments.uniform(0, 0.6))
        if os.waitpid(child, os.WNOHANG)[0]:
            sys.exit(f"ended by itself after {killed} kills")
        asked = time.monotonic()
        os.kill(child, number)
    status = os.waitpid(child, 0)[1]
    if killed < kills:
        # SIGTERM before the training loop installs its handler ends the process as usual.
        code, took = os.waitstatus_to_exitcode(status), time.monotonic() - asked
        if code not in ((-9,) if number == 9 else (1, -15)) or took > 120:
            sys.exit(f"ended with {code} after {took} s")
        killed += 1
    else:
        sys.exit(os.waitstatus_to_exitcode(status))
"""


def tensors(run: Path) -> dict[str, torch.Tensor]:
    folder = newest_checkpoint(run)
    return load_safetensors(folder / "model.safetensors") | load_safetensors(folder / "training.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    subprocess.run(
        [sys.executable, "-m", "whisper_gpt.jobs.cli", "train", str(dataset), "--out", str(run), *OPTIONS],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return run


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_run_killed_20_times_equals_an_uninterrupted_run(
    uninterrupted: Path, dataset: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    killer = subprocess.run(
        [sys.executable, "-c", KILLER, str(run), str(int(number)), str(KILLS), str(dataset), *OPTIONS],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killer.returncode == 0, killer.stderr
    assert read_state(newest_checkpoint(run)).stream == read_state(newest_checkpoint(uninterrupted)).stream
    killed, expected = tensors(run), tensors(uninterrupted)
    assert killed.keys() == expected.keys() and all(torch.equal(killed[name], expected[name]) for name in expected)
    assert not list((run / "checkpoints").glob(".*"))
    assert read_state(newest_checkpoint(run)).best == read_state(newest_checkpoint(uninterrupted)).best
    resumed_from = {line for line in killer.stderr.splitlines() if line.startswith("resuming from step")}
    assert len(resumed_from) >= KILLS // 4  # spread over the whole run
