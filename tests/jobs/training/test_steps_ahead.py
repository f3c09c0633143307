"""Launching a step before the last one is read, and reading batches in a process, as for a GPU, change no number."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.jobs.training.small_runs import train_context_32
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.inference.run_folder import checkpoints, newest_checkpoint, read_state
from whisper_gpt.jobs.training import loop, session
from whisper_gpt.model.checkpoint import load_safetensors

pytestmark = pytest.mark.usefixtures("tiny_presets")


@pytest.mark.parametrize("bad", [(), (3,), (3, 4, 5)])
def test_reading_a_step_later_changes_no_number(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: tuple[int, ...]
) -> None:
    """As on a GPU, which has the next step when a step is read: the same weights, moments, averages and states, with
    skipped steps; and times that add up."""
    step, number = loop.train_step, 0

    def failing_step(*arguments: Any, **named: Any) -> Any:
        nonlocal number
        number += 1
        return step(*arguments, **(named | {"max_nats": 0.0} if number in bad else named))

    monkeypatch.setattr(loop, "train_step", failing_step)
    options = ["--steps=11", "--eval-every=4", "--save-every=7", "--keep=9", "--ema=0.5", "--clip-s=0"]
    runs = [tmp_path / "at once", tmp_path / "later"]
    for ahead, run in enumerate(runs):
        number = 0
        monkeypatch.setattr(loop, "_steps_ahead", lambda ranks, ahead=ahead: ahead)
        assert train_context_32(dataset, run, *options) == 0
        events = EventAccumulator(str(run / "tensorboard")).Reload()
        assert [event.step for event in events.Scalars("train/token_nats")] == list(range(1, 12))
        assert all(0 <= event.value <= 1 for event in events.Scalars("speed/data_wait_share"))
    states = [[replace(read_state(folder), elapsed_s=0.0, files={}) for folder in checkpoints(run)] for run in runs]
    assert states[0] == states[1] and states[0][-1].skipped == len(bad)
    for folders in zip(*map(checkpoints, runs), strict=True):
        for name in ("model.safetensors", "training.safetensors"):
            at_once, later = (load_safetensors(folder / name) for folder in folders)
            assert all(torch.equal(at_once[tensor], later[tensor]) for tensor in at_once | later)


def test_a_signal_between_a_step_and_its_reading_loses_no_step(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With batches from a process, the stopped and resumed run still equals one that read them in a thread."""
    step, number = loop.train_step, 0

    def interrupted(*arguments: Any, **named: Any) -> Any:
        nonlocal number
        number += 1
        if number == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **named)

    monkeypatch.setattr(loop, "_steps_ahead", lambda ranks: 1)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert train_context_32(dataset, whole, "--steps=9") == 0
    monkeypatch.setattr(session, "_reads_in_a_process", lambda ranks: True)
    monkeypatch.setattr(loop, "train_step", interrupted)
    assert train_context_32(dataset, stopped, "--steps=9") == 1
    assert read_state(newest_checkpoint(stopped)).step == 5  # the fifth was with the device when the fourth was read
    monkeypatch.setattr(loop, "train_step", step)
    assert cli.main(["train", "--out", str(stopped), "--resume"]) == 0
    expected, actual = (load_safetensors(newest_checkpoint(run) / "model.safetensors") for run in (whole, stopped))
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
