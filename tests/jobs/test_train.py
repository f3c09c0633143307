"""Training and scoring from shards: learns, resumes exactly, refuses mismatched runs and data."""

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from tests.helpers import train_context_64
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.inference.run_folder import checkpoints, load_run, newest_checkpoint, read_state
from whisper_gpt.jobs.training import loop
from whisper_gpt.jobs.training.config import Config
from whisper_gpt.jobs.training.distributed import single_process
from whisper_gpt.jobs.training.optimizers import learning_rate
from whisper_gpt.jobs.training.step import train_step
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.model.checkpoint import load_safetensors
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.objective import Objective
from whisper_gpt.pipeline.loading.stream import StreamConfig, stream

pytestmark = pytest.mark.usefixtures("tiny_presets")


def test_overfits_one_batch_of_shards(dataset: Path) -> None:
    batch = next(stream(dataset, "train", StreamConfig(context=24, batch=4)))
    for bands in (64, 0):
        torch.manual_seed(0)
        shape = ModelConfig("small", context=24, width=128, layers=2, mel_bands=bands, mel_width=48, mel_layers=1)
        model = HybridLM(shape).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0, fused=True)
        for _ in range(120):
            pending = train_step(Objective(model), [optimizer], [batch], single_process("cpu"), clip=1.0, max_nats=10.0)
        assert pending.wait().token_nats < 0.1


def test_loss_falls_below_a_uniform_guess(
    runs: dict[str, Path], dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve steps bring both models below the loss of a uniform guess (6.93 nats)."""
    assert cli.main(["evaluate", str(dataset), *map(str, runs.values()), "--split=train", "--json"]) == 0
    rows = {row["model"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["hybrid-4m"]["nll"] < 6.9 and rows["gpt-4m"]["nll"] < 6.9


def test_evaluate_scores_every_token_and_the_baselines(
    runs: dict[str, Path], dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", str(dataset), *map(str, runs.values()), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {row["model"] for row in rows} == {"unigram", "bigram", "5-gram", "hybrid-4m", "gpt-4m"}
    frames = sum(read_samples(dataset, "test")["frames"].to_pylist())
    for row in rows:
        assert row.keys() >= {"run", "model", "parameters", "split", "nll", "ppl", "accuracy", "tokens"}
        assert row["tokens"] == frames and row["ppl"] == pytest.approx(np.exp(row["nll"]))
    assert cli.main(["evaluate", str(dataset), str(runs["gpt-4m"])]) == 0
    assert "5-gram" in capsys.readouterr().out


def test_run_folder_has_the_documented_files(runs: dict[str, Path]) -> None:
    run = runs["hybrid-4m"]
    assert [c.name for c in checkpoints(run)] == ["step-00000006", "step-00000012"]
    assert {p.name for p in newest_checkpoint(run).iterdir()} == {
        "config.json",
        "model.safetensors",
        "training.safetensors",
        "state.json",
    }
    assert list((run / "tensorboard").glob("events*")) and (run / "train.yaml").is_file()
    model, state = load_run(run)
    assert state.step == 12 and not model.training
    assert model.mel_encoder.mel_mean.abs().sum() > 0  # those of the dataset, not the default


def test_resume_is_bit_exact(runs: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    """Stopped after 6 of 12 steps and resumed, a run has the weights of an uninterrupted actual, bit for bit."""
    run = tmp_path / "run"
    shutil.copytree(runs["hybrid-4m"], run)
    shutil.rmtree(newest_checkpoint(run))
    assert train_context_64(dataset, run, "--model=hybrid-4m", "--steps=12", "--save-every=6", "--resume") == 0
    actual, expected = (load_safetensors(newest_checkpoint(r) / "model.safetensors") for r in (run, runs["hybrid-4m"]))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert read_state(newest_checkpoint(run)).stream == read_state(newest_checkpoint(runs["hybrid-4m"])).stream


def test_resume_reuses_the_options_of_the_run(runs: dict[str, Path], dataset: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(runs["hybrid-4m"], tmp_path / "run"))
    assert cli.main(["train", "--out", str(run), "--resume", "--steps=14"]) == 0
    saved = yaml.safe_load((run / "train.yaml").read_text())
    assert (saved["batch"], saved["context"], saved["steps"], saved["datasets"]) == (2, 64, 14, [str(dataset)])
    assert "resume" not in saved and read_state(newest_checkpoint(run)).step == 14


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_saves_a_checkpoint_and_resume_is_bit_exact(
    runs: dict[str, Path],
    dataset: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    """A signal in the fourth of twelve steps, then --resume: the weights of an uninterrupted run, bit for bit."""
    step, steps = loop.train_step, []

    def interrupted(*arguments: Any, **named: Any) -> Any:
        steps.append(1)
        if len(steps) == 4:
            os.kill(os.getpid(), number)
        return step(*arguments, **named)

    monkeypatch.setattr(loop, "train_step", interrupted)
    run = tmp_path / "run"
    assert train_context_64(dataset, run, "--model=hybrid-4m", "--steps=12", "--save-every=6") == 1
    assert "stopped by a signal" in capsys.readouterr().err
    assert read_state(newest_checkpoint(run)).step == 4
    assert cli.main(["train", "--out", str(run), "--resume"]) == 0
    actual, expected = (load_safetensors(newest_checkpoint(r) / "model.safetensors") for r in (run, runs["hybrid-4m"]))
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_mismatched_runs_and_datasets_are_refused(
    runs: dict[str, Path], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(runs["hybrid-4m"])
    assert train_context_64(dataset, Path(run), "--steps=13") == 1
    assert "pass --resume" in capsys.readouterr().err
    assert train_context_64(dataset, Path(run), "--steps=13", "--resume", "--seed=5") == 1
    assert "trained with seed 0, not 5" in capsys.readouterr().err
    assert train_context_64(dataset, Path(run), "--steps=13", "--model=gpt-4m", "--resume") == 1
    assert "holds another model: name hybrid-4m / gpt-4m; mel_bands 64 / 0" in capsys.readouterr().err
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    info = (other / "dataset.json").read_text()
    (other / "dataset.json").write_text(
        info.replace('"window_samples": 1024', '"window_samples": 2048').replace(
            '"fingerprint": "', '"fingerprint": "x'
        )
    )
    assert cli.main(["evaluate", str(other), run]) == 1
    assert "mel.window_samples 1024 / 2048" in capsys.readouterr().err
    assert cli.main(["evaluate", str(dataset), str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_damaged_checkpoint_is_named(
    runs: dict[str, Path], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(runs["gpt-4m"], tmp_path / "run"))
    weights = newest_checkpoint(run) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    assert cli.main(["evaluate", str(dataset), str(run)]) == 1
    assert f"{weights}: cannot be read" in capsys.readouterr().err


def test_time_limited_run_ends_with_a_checkpoint(dataset: Path, tmp_path: Path) -> None:
    assert train_context_64(dataset, tmp_path / "run", "--minutes=0.02", "--model=gpt-4m") == 0
    assert read_state(newest_checkpoint(tmp_path / "run")).elapsed_s >= 1.2


def test_evaluate_without_a_training_split_has_no_baselines(
    runs: dict[str, Path], dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    for fragment in (copy / "manifest").glob("train-*"):
        fragment.unlink()
    shutil.rmtree(copy / "index")
    assert cli.main(["evaluate", str(copy), str(runs["gpt-4m"])]) == 1
    assert "the manifest of train holds 0 of the" in capsys.readouterr().err
    info = json.loads((copy / "dataset.json").read_text())
    del info["splits"]["train"]
    (copy / "dataset.json").write_text(json.dumps(info))
    assert cli.main(["evaluate", str(copy), str(runs["gpt-4m"]), "--json"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == ["gpt-4m"]
    assert cli.main(["evaluate", str(copy)]) == 1
    assert str(copy) in capsys.readouterr().err


def test_learning_rate_warms_up_and_decays() -> None:
    config = Config((), Path(), learning_rate=1.0, warmup=0.1)
    rates = [learning_rate(config, step / 100) for step in range(101)]
    assert rates.index(max(rates)) == 10 and max(rates) == pytest.approx(1.0)
    assert rates[0] < 0.02 and rates[100] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
