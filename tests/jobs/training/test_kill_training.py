"""Runs that are killed at random moments, and resumed: bit for bit the run that nothing disturbed."""

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
    *("--model=hybrid-4m", "--context=16", "--batch=2", "--accumulate=2", "--deterministic", "--ema=0.9"),
    *(f"--steps={STEPS}", "--save-every=7", "--eval-every=50", "--eval-batches=1", "--clip-s=0"),
]

# Imports once and forks for each try, because a fresh interpreter spends seconds on importing torch. Each try is killed
# a random moment after the run came near a random step, so that however fast the machine is, there are as many.
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
        # SIGTERM before the training loop is there to see it ends a process as it ends any.
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
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    subprocess.run(
        [sys.executable, "-m", "whisper_gpt.jobs.cli", "train", str(dataset), "--out", str(run), *OPTIONS],
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    return run


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_twenty_kills_do_not_change_the_run(
    undisturbed: Path, dataset: Path, tmp_path: Path, number: signal.Signals
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
    assert read_state(newest_checkpoint(run)).stream == read_state(newest_checkpoint(undisturbed)).stream
    one, other = tensors(run), tensors(undisturbed)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)
    assert not list((run / "checkpoints").glob(".*"))
    assert read_state(newest_checkpoint(run)).best == read_state(newest_checkpoint(undisturbed)).best
    resumed_from = {line for line in killer.stderr.splitlines() if line.startswith("resuming from step")}
    assert len(resumed_from) >= KILLS // 4  # places all over the run
