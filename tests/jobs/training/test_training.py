"""Parts of the trainer: skipped steps, checkpoints, weight averaging, optimizers, mixtures, damaged samples."""

import json
import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import SafetensorError

from tests.jobs.training.small_runs import FAST, SMALL, batches_of, damage_first_sample, small_model, train_context_32
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.inference.run_folder import checkpoints, load_run, newest_checkpoint, read_state
from whisper_gpt.jobs.training import checkpoints as writing
from whisper_gpt.jobs.training import loop, session
from whisper_gpt.jobs.training.config import Config
from whisper_gpt.jobs.training.distributed import seed_everything, single_process
from whisper_gpt.jobs.training.optimizers import build_optimizers, update_average
from whisper_gpt.jobs.training.step import train_step
from whisper_gpt.model.checkpoint import load_safetensors
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.cost import peak_flops, training_flops
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.objective import Objective
from whisper_gpt.pipeline.loading.stream import Batch

pytestmark = pytest.mark.usefixtures("tiny_presets")


def one_step(model: HybridLM, train_batches: Sequence[Batch], **options: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, fused=True)
    options = {"clip": 1e9, "max_nats": 100.0} | options
    return train_step(Objective(model), [optimizer], train_batches, single_process("cpu"), **options).wait()


@pytest.mark.parametrize("kind", ["not a number", "too many nats"])
def test_out_of_bounds_step_leaves_the_weights_unchanged(dataset: Path, kind: str) -> None:
    model, [batch] = small_model(), batches_of(dataset, 1)
    before = [p.detach().clone() for p in model.parameters()]
    if kind == "not a number":
        model.head.weight.register_hook(lambda gradient: gradient * float("nan"))
    result = one_step(model, [batch], max_nats=100.0 if kind == "not a number" else 1.0)
    assert not result.healthy
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert one_step(small_model(), [batch]).healthy


def test_bf16_is_close_and_weights_stay_fp32(dataset: Path) -> None:
    train_batches = batches_of(dataset, 1)
    fp32_model, bf16_model = small_model(), small_model()
    exact, rough = one_step(fp32_model, train_batches), one_step(bf16_model, train_batches, precision="bf16")
    assert rough.token_nats == pytest.approx(exact.token_nats, rel=0.02) and rough.token_nats != exact.token_nats
    assert all(p.dtype == torch.float32 for p in bf16_model.parameters())


def test_bad_steps_are_skipped_and_too_many_stop_the_run(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The loss is out of bounds at step 3 and from step 6 on."""
    step, count = loop.train_step, 0

    def failing_step(objective: Any, optimizers: Any, train_batches: Any, *rest: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        if optimizers and (count == 3 or count >= 6):  # without optimizers the step only checks the weights
            named["max_nats"] = 0.0
        return step(objective, optimizers, train_batches, *rest, **named)

    monkeypatch.setattr(loop, "train_step", failing_step)
    monkeypatch.setattr(loop, "MAX_BAD_STEPS", 3)
    run = tmp_path / "run"
    assert train_context_32(dataset, run, "--steps=20", "--save-every=4") == 1
    output = capsys.readouterr().err
    assert output.count("out of bounds") == 5 and "step 3 skipped" in output
    assert "step-00000005 is from before them; their samples: " in output
    state = read_state(newest_checkpoint(run))
    assert (state.step, state.skipped) == (5, 1)


def test_diverged_weights_are_not_saved(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At an absurd learning rate the loss of the first step is in bounds, but the updated weights are not usable."""
    run = tmp_path / "run"
    assert train_context_32(dataset, run, "--steps=20", "--learning-rate=1e30", "--warmup=0") == 1
    assert "there is no checkpoint from before them" in capsys.readouterr().err and not checkpoints(run)


def test_no_checkpoint_during_a_streak_of_bad_steps(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, count = loop.train_step, 0

    def failing_step(objective: Any, optimizers: Any, *rest: Any, **named: Any) -> Any:
        nonlocal count
        count += 1
        return step(objective, optimizers, *rest, **(named | {"max_nats": 0.0} if count > 2 and optimizers else named))

    monkeypatch.setattr(loop, "train_step", failing_step)
    run = tmp_path / "run"
    assert train_context_32(dataset, run, "--steps=20", "--save-every=1") == 1
    assert [c.name for c in checkpoints(run)] == ["step-00000001", "step-00000002"]


def test_best_checkpoint_is_kept(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--steps=12", "--eval-every=2", "--save-every=3", "--keep=1", "--learning-rate=1e-5"]
    assert train_context_32(dataset, run, *options) == 0
    content = json.loads((newest_checkpoint(run) / "state.json").read_text())
    best = content["best"]["step"]
    assert {c.name for c in checkpoints(run)} == {f"step-{best:08d}", "step-00000012"}
    assert load_run(run, best=True)[1].step == best and load_run(run)[1].step == 12
    assert load_run(checkpoints(run)[0])[1].step == min(best, 12)
    assert cli.main(["evaluate", str(dataset), str(run), "--checkpoint=best", "--json"]) == 0


def test_resume_falls_back_from_a_damaged_checkpoint(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    assert train_context_32(dataset, run, "--steps=8", "--save-every=2") == 0
    shutil.copytree(run, other)
    damaged = newest_checkpoint(other) / "training.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(bytes(content))
    assert cli.main(["train", "--out", str(other), "--resume"]) == 0
    output = capsys.readouterr().err
    assert str(damaged) in output and "damaged-step-00000008" in output and "from step 6" in output
    expected, actual = (load_safetensors(newest_checkpoint(r) / "model.safetensors") for r in (run, other))
    assert all(torch.equal(expected[name], actual[name]) for name in expected)
    for folder in checkpoints(other):
        (folder / "model.safetensors").unlink()
    assert cli.main(["train", "--out", str(other), "--resume"]) == 1
    assert str(other) in capsys.readouterr().err


def test_ema_weights_are_saved_next_to_the_raw_weights(dataset: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train_context_32(dataset, run, "--steps=4", "--ema=0.9") == 0
    folder = newest_checkpoint(run)
    average, training_state = (
        load_safetensors(folder / "model.safetensors"),
        load_safetensors(folder / "training.safetensors"),
    )
    assert not torch.equal(average["head.weight"], training_state["raw/head.weight"])
    assert torch.equal(HybridLM.from_pretrained(folder).head.weight, average["head.weight"])


def test_running_average_averages() -> None:
    model = small_model()
    average, initial = small_model(), model.head.weight.detach().clone()
    with torch.no_grad():
        model.head.weight.add_(1.0)
    update_average(average, model, 0.5, torch.tensor(False))
    assert torch.equal(average.head.weight, initial)
    update_average(average, model, 0.75, torch.tensor(True))
    assert torch.allclose(average.head.weight, initial + 0.25, atol=1e-6)
    update_average(average, model, 0.0, torch.tensor(True))
    assert torch.equal(average.head.weight, model.head.weight)


def test_muon_optimizes_the_block_matrices_and_resumes(dataset: Path, tmp_path: Path) -> None:
    adamw, muon = build_optimizers(small_model(), Config((), Path(), optimizer="muon"))
    assert sum(len(group["params"]) for group in muon.param_groups) == 4 * SMALL.layers
    assert sum(len(group["params"]) for group in adamw.param_groups) == 2  # embedding and head
    run, resumed = tmp_path / "run", tmp_path / "resumed"
    assert train_context_32(dataset, run, "--optimizer=muon", "--steps=6", "--save-every=3") == 0
    shutil.copytree(run, resumed)
    shutil.rmtree(newest_checkpoint(resumed))
    assert cli.main(["train", "--out", str(resumed), "--resume"]) == 0
    expected, actual = (load_safetensors(newest_checkpoint(r) / "training.safetensors") for r in (run, resumed))
    assert any("momentum" in name for name in expected) and all(
        torch.equal(expected[name], actual[name]) for name in expected
    )


def test_random_numbers_depend_on_seed_step_and_rank() -> None:
    draws = []
    for seed, step, rank in ((0, 1, 0), (0, 1, 0), (0, 1, 1), (0, 2, 0), (1, 1, 0)):
        seed_everything(seed, step, rank)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[1] and len(set(draws)) == 4


def test_initialization_and_each_step_are_seeded_differently(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[tuple[int, int, int]] = []
    for module in (loop, session):
        monkeypatch.setattr(module, "seed_everything", lambda *seed: seeds.append(seed))
    assert train_context_32(dataset, tmp_path / "run", "--steps=2") == 0
    assert len(seeds) == 3 and len(set(seeds)) == 3


def test_mixture_is_trained_on_and_resumed(dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other, run = Path(shutil.copytree(dataset, tmp_path / "other")), tmp_path / "run"
    info = json.loads((other / "dataset.json").read_text())
    del info["splits"]["validation"]
    (other / "dataset.json").write_text(json.dumps(info))
    options = [*FAST, "--weights", "0.7", "0.3", "--steps=4", "--save-every=2"]
    assert cli.main(["train", str(dataset), str(other), "--out", str(run), *options]) == 0
    assert read_state(newest_checkpoint(run)).order["weights"] == [0.7, 0.3]
    assert "step 4: validation" in capsys.readouterr().err  # on the dataset that has a validation split
    assert cli.main(["train", "--out", str(run), "--resume", "--steps=6"]) == 0
    assert cli.main(["train", "--out", str(run), "--resume", "--weights", "0.5", "0.5"]) == 1
    assert "trained with weights [0.7, 0.3], not [0.5, 0.5]" in capsys.readouterr().err
    assert cli.main(["train", str(dataset), "--out", str(tmp_path / "x"), *FAST, "--weights", "0.5", "0.5"]) == 2


def test_dataset_in_an_object_store_trains_the_same_model(dataset: Path, store: Any, tmp_path: Path) -> None:
    remote = store.bucket() / "dataset"
    for path in sorted(p for p in dataset.rglob("*") if p.is_file()):
        (remote / path.relative_to(dataset).as_posix()).write_bytes(path.read_bytes())
    local_run, remote_run = tmp_path / "local_run", tmp_path / "remote_run"
    assert train_context_32(dataset, local_run, "--steps=3") == 0
    assert train_context_32(str(remote), remote_run, "--steps=3", "--cache", str(tmp_path / "cache")) == 0
    local_weights, remote_weights = (
        load_safetensors(newest_checkpoint(r) / "model.safetensors") for r in (local_run, remote_run)
    )
    assert all(torch.equal(local_weights[name], remote_weights[name]) for name in local_weights)


def test_damaged_validation_sample_does_not_stop_the_run(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    _, key = damage_first_sample(copy, "validation")
    assert train_context_32(copy, tmp_path / "run", "--steps=2", "--eval-every=1") == 0
    assert key in capsys.readouterr().err


def test_damaged_training_samples_are_reported_and_limited(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    shard, key = damage_first_sample(copy, "train")
    assert train_context_32(copy, tmp_path / "run", "--steps=12", "--batch=32") == 0
    assert key in capsys.readouterr().err
    assert train_context_32(copy, tmp_path / "other", "--steps=12", "--batch=32", "--max-damaged=0") == 1
    assert f"{shard}: {key} cannot be read" in capsys.readouterr().err
    shard.unlink()  # not truncated in place: that would crash whoever has it mapped
    shard.write_bytes(b"")  # a damaged shard, unlike a sample, is never skipped
    assert train_context_32(copy, tmp_path / "third", "--steps=12", "--batch=32", "--max-damaged=1000") == 1
    assert f"{shard}: cannot be read" in capsys.readouterr().err


def test_resume_with_other_optimizer_or_samples_is_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, copy = tmp_path / "run", Path(shutil.copytree(dataset, tmp_path / "dataset"))
    assert train_context_32(copy, run, "--steps=2") == 0
    assert cli.main(["train", "--out", str(run), "--resume", "--steps=4", "--optimizer=adamw"]) == 1
    assert "trained with --optimizer muon, not adamw" in capsys.readouterr().err
    fragment = sorted((copy / "manifest").glob("train-*"))[0]
    rows = pq.read_table(fragment)
    pq.write_table(rows.slice(0, rows.num_rows - 1), fragment)
    shutil.rmtree(copy / "index")
    info = json.loads((copy / "dataset.json").read_text())
    info["splits"]["train"]["samples"] -= 1
    (copy / "dataset.json").write_text(json.dumps(info))
    assert cli.main(["train", "--out", str(run), "--resume", "--steps=4"]) == 1
    assert "trained on other samples than" in capsys.readouterr().err


def test_resume_with_another_window_order_is_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The position in the order would mean something else: some samples would be seen twice and others missed."""
    run = tmp_path / "run"
    assert train_context_32(dataset, run, "--steps=2") == 0
    path = newest_checkpoint(run) / "state.json"
    state = json.loads(path.read_text())
    state["order"].pop("version", None)
    path.write_text(json.dumps(state))
    assert cli.main(["train", "--out", str(run), "--resume", "--steps=4"]) == 1
    assert f"{run} was trained by a version" in capsys.readouterr().err


def test_interrupted_evaluation_runs_again_on_resume(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    score, run, other = loop.score_model, tmp_path / "run", tmp_path / "other"
    options = ["--steps=6", "--eval-every=3", "--save-every=100"]
    assert train_context_32(dataset, other, *options) == 0

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "score_model", interrupted)
        assert train_context_32(dataset, run, *options) == 1
    stopped = read_state(newest_checkpoint(run))
    assert stopped.step == 3 and stopped.unscored and stopped.best is None
    capsys.readouterr()
    assert cli.main(["train", "--out", str(run), "--resume"]) == 0
    assert "step 3: validation" in capsys.readouterr().err
    assert read_state(newest_checkpoint(run)).best == read_state(newest_checkpoint(other)).best


def test_full_disk_is_a_one_line_error_and_the_run_resumes(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train_context_32(dataset, run, "--steps=2") == 0

    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(writing, "save_file", full)
        assert cli.main(["train", "--out", str(run), "--resume", "--steps=4"]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "step-00000004" in line and "No space left" in line
    assert newest_checkpoint(run).name == "step-00000002"
    assert cli.main(["train", "--out", str(run), "--resume", "--steps=4"]) == 0


def test_second_run_in_the_same_folder_is_refused(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with output_lock(tmp_path / "run"):
        assert train_context_32(dataset, tmp_path / "run", "--steps=2") == 1
    assert "another run" in capsys.readouterr().err


def test_flops_match_the_formula() -> None:
    model = HybridLM(ModelConfig("gpt", vocab=1024, context=512))
    flops = training_flops(model.config, model.parameter_count())
    matrices = 4 * 12 * 256**2 + 1024 * 256
    assert flops == 6 * matrices + 12 * 4 * 256 * 512
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("GeForce") is None


def test_a_resume_needs_no_model_file(dataset: Path, tmp_path: Path) -> None:
    """The run's folder keeps a copy, which every worker of a cluster can read too."""
    file, run = tmp_path / "tiny.json", tmp_path / "run"
    file.write_text('{"width": 32, "layers": 1, "heads": 2}')
    assert train_context_32(dataset, run, "--model", str(file), "--steps=2", "--save-every=1") == 0
    file.unlink()
    assert cli.main(["train", str(dataset), "--out", str(run), "--steps=3", "--resume"]) == 0
    model, state = load_run(run)
    assert (model.config.name, model.config.width, state.step) == ("tiny", 32, 3)
