"""`bench train` measures the loop of `train` and a plain reference loop, which learns too."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.benchmarks.nanogpt import plain_loop
from whisper_gpt.model.config import ModelConfig


def test_bench_train_measures_every_loop(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--no-compile", "--context=16", "--batch=2", "--steps=1", "--rounds=1", "--precisions", "fp32", "--json"]
    assert cli.main(["bench", "train", str(dataset), *options]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["loop"] for row in rows] == ["plain loop", "gpt-4m", "hybrid-4m"]
    assert rows[0]["to_plain"] == 1.0 and all(row["tokens_per_s"]["median"] > 0 for row in rows)
    assert rows[0]["wait_share"] is None and all(0 <= row["wait_share"] < 1 for row in rows[1:])


def test_plain_loop_learns() -> None:
    torch.manual_seed(0)
    tokens = np.tile(np.arange(16, dtype=np.uint16), 40)
    step = plain_loop(
        ModelConfig("tiny", vocab=16, context=16, width=32, layers=1, heads=2), tokens, 4, "fp32", torch.device("cpu")
    )
    losses = [step() for _ in range(60)]
    assert losses[-1] < 0.5 * losses[0]
