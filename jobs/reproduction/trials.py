"""One trial: a row trained on one dataset at one learning rate from one seed.

Its folder holds `trial.json` and a checkpoint's model and state once it is trained; and while it trains, a run that
goes on from its newest checkpoint.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from upath import UPath

from whisper_gpt.jobs.common.errors import Diverged, JobError
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.inference.run_folder import load_run
from whisper_gpt.jobs.inference.scoring import score_model
from whisper_gpt.jobs.reproduction.rows import Row
from whisper_gpt.jobs.training.checkpoints import save_state, sync_files
from whisper_gpt.jobs.training.config import Config
from whisper_gpt.jobs.training.distributed import Precision, autocast, single_process
from whisper_gpt.jobs.training.rank import train_rank
from whisper_gpt.manifests.full_disk import naming_full_disk
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.model.checkpoint import save_model
from whisper_gpt.model.cost import training_flops
from whisper_gpt.pipeline.loading.stream import Batch, whole_split
from whisper_gpt.pipeline.shards.task import Device

EVALUATIONS = 10  # points of the learning curve
_EVALUATED_WINDOWS = 32  # at least, for a point; the trial's last score is of the whole split
_SCORED_TOGETHER = 8
_TRIAL_FILE = "trial.json"
_LOG_FILE = "log.txt"


@dataclass(frozen=True)
class Budget:
    """What all trials share: how many frames they are trained on, in which windows, and how they are computed."""

    tokens: int
    context: int
    batch: int
    precision: Precision
    device: Device
    compile: bool
    threads: int

    @property
    def steps(self) -> int:
        """Optimizer steps of a trial."""
        return max(1, self.tokens // (self.context * self.batch))

    @property
    def evaluated_batches(self) -> int:
        """Batches of the validation split for a point of the learning curve."""
        return math.ceil(_EVALUATED_WINDOWS / self.batch)

    @property
    def evaluated_windows(self) -> int:
        """Windows in those batches."""
        return self.evaluated_batches * self.batch


@dataclass(frozen=True)
class Trial:
    """A row to train on `dataset`; `folder` is its place in the results."""

    dataset: Location
    row: Row
    learning_rate: float
    seed: int
    folder: Path


@dataclass(frozen=True)
class Trained:
    """What a trial was found to be: `nats` a token of the validation split, None where it diverged; `tokens` that it
    learnt from (skipped steps are none of them); `curve`: (tokens, nats) on the way."""

    nats: float | None
    parameters: int
    flops_per_token: float
    tokens: int
    wall_s: float
    curve: tuple[tuple[int, float], ...]


_DIVERGED = Trained(nats=None, parameters=0, flops_per_token=0.0, tokens=0, wall_s=0.0, curve=())


def train_trial(trial: Trial, budget: Budget) -> Trained:
    """Train a trial, or go on with it, and score it on the whole validation split. In a process of its own."""
    torch.set_num_threads(budget.threads)
    trial.folder.mkdir(parents=True, exist_ok=True)
    config, ranks = training_config(trial, budget), single_process(budget.device)
    try:
        path = trial.folder / _LOG_FILE
        with naming_full_disk(path), path.open("a", encoding="utf-8") as log:
            train_rank(config, ranks, status_console(log), contextlib.nullcontext(lambda: False))
    except Diverged as error:
        append_log(trial.folder, f"diverged: {error}\n")
        return _publish(trial, _DIVERGED)
    model, state = load_run(config.out)
    with autocast(budget.precision, ranks.device):
        score = score_model(model.to(ranks.device), windows(trial, budget, "validation", ranks.device))
    parameters = model.parameter_count()
    found = Trained(
        nats=score.nll if math.isfinite(score.nll) else None,
        parameters=parameters,
        flops_per_token=training_flops(model.config, parameters),
        tokens=(state.step - state.skipped) * budget.batch * budget.context,
        wall_s=state.elapsed_s,
        curve=_curve(config.out, budget),
    )
    save_model(model.cpu(), trial.folder)
    with naming_full_disk(trial.folder):
        save_state(trial.folder, replace(state, files={}))  # with it, the folder is a checkpoint to evaluate and audit
        sync_files(trial.folder)
    return _publish(trial, found)


def _publish(trial: Trial, found: Trained) -> Trained:
    """Say what a trial was found to be, and remove its run."""
    publish_bytes(trial.folder / _TRIAL_FILE, (json.dumps(asdict(found)) + "\n").encode())
    shutil.rmtree(training_run(trial), ignore_errors=True)
    return found


def append_log(folder: Path, text: str) -> None:
    """Add to what a folder's trial has said so far."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOG_FILE
    with naming_full_disk(path), path.open("a", encoding="utf-8") as log:
        log.write(text)


def training_run(trial: Trial) -> Path:
    """Where the trial's training run lies while it goes on."""
    return trial.folder / "run"


def read_trained(trial: Trial) -> Trained | None:
    """What a trial was found to be; None where it is not trained yet."""
    path = trial.folder / _TRIAL_FILE
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return Trained(**{**found, "curve": tuple((tokens, nats) for tokens, nats in found["curve"])})


def require_trained(trial: Trial) -> Trained:
    """What a trial was found to be. Raises `JobError` where it is not trained yet."""
    found = read_trained(trial)
    if found is None:
        raise JobError(f"{trial.folder}: not trained yet; rerun to go on")
    return found


def windows(trial: Trial, budget: Budget, split: str, device: torch.device) -> Iterator[Batch]:
    """The whole of a split, its samples cut into windows, each predicted from what is in it."""
    found = whole_split(trial.dataset, split, budget.context, _SCORED_TOGETHER, trial.row.view)
    return (batch.to(device) for batch in found)


def training_config(trial: Trial, budget: Budget) -> Config:
    """The options of the trial's training run: `train`'s own, but for what makes a row, and the budget."""
    row, now_and_then = trial.row, math.ceil(budget.steps / EVALUATIONS)
    return Config(
        datasets=(UPath(trial.dataset),),
        out=training_run(trial),
        model=row.model,
        mel=row.view,
        input_codebooks=row.input_codebooks,
        steps=budget.steps,
        batch=budget.batch,
        context=budget.context,
        learning_rate=trial.learning_rate,
        precision=budget.precision,
        device=budget.device,
        compile=budget.compile,
        seed=trial.seed,
        eval_every=now_and_then,
        eval_batches=budget.evaluated_batches,
        clip_s=0,
        save_every=now_and_then,
        keep=1,
    )


def recipe() -> dict[str, Any]:
    """What of a training run is the same in all trials, whatever their budget."""
    same = ("optimizer", "weight_decay", "warmup", "clip", "ema", "accumulate", "pack")
    defaults = Config((), Path())
    return {name: getattr(defaults, name) for name in same}


def _curve(run: Path, budget: Budget) -> tuple[tuple[int, float], ...]:
    """Each evaluation of a run, as it has written them down for TensorBoard."""
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    found = {event.step: event.value for event in events.Scalars("validation/codebook_0/token_nats")}
    return tuple((step * budget.batch * budget.context, nats) for step, nats in sorted(found.items()))
