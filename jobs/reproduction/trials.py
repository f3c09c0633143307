"""One trial: a row trained on one dataset at one learning rate with one seed.

Once it is trained, its folder holds `trial.json` and a checkpoint's model and state; while it trains, a run that
resumes from its newest checkpoint.
"""

import contextlib
import json
import math
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
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

EVALUATIONS = 10  # points on the learning curve
_EVALUATED_WINDOWS = 32  # minimum per point; the trial's final score is of the whole split
_SCORING_BATCH = 8
_TRIAL_FILE = "trial.json"
_LOG_FILE = "log.txt"


@dataclass(frozen=True)
class Budget:
    """What all trials share: number of training tokens, window and batch size, and how they are computed."""

    tokens: int
    context: int
    batch: int
    precision: Precision
    device: Device
    compile: bool
    threads: int

    @property
    def steps(self) -> int:
        """Optimizer steps of a trial that takes all tokens."""
        return self.steps_of(1)

    def steps_of(self, divisor: int) -> int:
        """Return the optimizer steps of a trial that takes the tokens divided by `divisor`."""
        return max(1, self.tokens // (self.context * self.batch) // divisor)

    def tokens_of(self, divisor: int) -> int:
        """Return the tokens in those steps."""
        return self.steps_of(divisor) * self.context * self.batch

    @property
    def evaluated_batches(self) -> int:
        """Batches of the validation split per point on the learning curve."""
        return math.ceil(_EVALUATED_WINDOWS / self.batch)

    @property
    def evaluated_windows(self) -> int:
        """Windows in those batches."""
        return self.evaluated_batches * self.batch


@dataclass(frozen=True)
class Trial:
    """A row to train on `datasets`, in equal shares, for the budget's tokens divided by `divisor`; `folder` is that of
    its results."""

    datasets: tuple[Location, ...]
    row: Row
    learning_rate: float
    seed: int
    folder: Path
    divisor: int = 1


@dataclass(frozen=True)
class Trained:
    """The outcome of a trial: `nats` per frame on the validation split, over the codebooks that it predicts, None if it
    diverged; training `tokens` of codebook 0, without those of skipped steps; `curve`: (tokens, nats) at each
    evaluation."""

    nats: float | None
    parameters: int
    flops_per_token: float
    tokens: int
    wall_s: float
    curve: tuple[tuple[int, float], ...]


_DIVERGED = Trained(nats=None, parameters=0, flops_per_token=0.0, tokens=0, wall_s=0.0, curve=())


def train_trial(trial: Trial, budget: Budget) -> Trained:
    """Train or resume a trial, and score it on the whole validation split. Runs in a separate process."""
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
        scores = [
            score_model(model.to(ranks.device), windows(trial, budget, dataset, "validation", ranks.device))
            for dataset in trial.datasets
        ]
    # A mixture of equal shares counts each dataset as much, whatever their sizes.
    nats, parameters = fmean(sum(score.codebook_nll) for score in scores), model.parameter_count()
    trained = Trained(
        nats=nats if math.isfinite(nats) else None,
        parameters=parameters,
        flops_per_token=training_flops(model.config, parameters),
        tokens=(state.step - state.skipped) * budget.batch * budget.context,
        wall_s=state.elapsed_s,
        curve=_curve(config.out, budget, trial.row.output_codebooks),
    )
    save_model(model.cpu(), trial.folder)
    with naming_full_disk(trial.folder):
        save_state(trial.folder, replace(state, files={}))  # makes the folder a checkpoint for evaluate and audit
        sync_files(trial.folder)
    return _publish(trial, trained)


def _publish(trial: Trial, trained: Trained) -> Trained:
    """Write the outcome of a trial, and remove its run."""
    publish_bytes(trial.folder / _TRIAL_FILE, (json.dumps(asdict(trained)) + "\n").encode())
    shutil.rmtree(training_run(trial), ignore_errors=True)
    return trained


def append_log(folder: Path, text: str) -> None:
    """Append to the log of a folder's trial."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOG_FILE
    with naming_full_disk(path), path.open("a", encoding="utf-8") as log:
        log.write(text)


def training_run(trial: Trial) -> Path:
    """Return the folder of the trial's training run, which exists while it trains."""
    return trial.folder / "run"


def read_trained(trial: Trial) -> Trained | None:
    """Read the outcome of a trial; None if it is not trained yet."""
    path = trial.folder / _TRIAL_FILE
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return Trained(**{**content, "curve": tuple((tokens, nats) for tokens, nats in content["curve"])})


def require_trained(trial: Trial) -> Trained:
    """Read the outcome of a trial. Raises `JobError` if it is not trained yet."""
    trained = read_trained(trial)
    if trained is None:
        raise JobError(f"{trial.folder}: not trained yet; rerun to resume")
    return trained


def windows(trial: Trial, budget: Budget, dataset: Location, split: str, device: torch.device) -> Iterator[Batch]:
    """Return the windows of a dataset's whole split, each scored from an empty history."""
    context, batch = _window(trial.row, budget.context, _SCORING_BATCH)
    batches = whole_split(dataset, split, context, batch, trial.row.mel_variant)
    return (batch.to(device) for batch in batches)


def training_config(trial: Trial, budget: Budget) -> Config:
    """Return the options of the trial's training run: `train`'s defaults, except for the row and the budget."""
    row, steps = trial.row, budget.steps_of(trial.divisor)
    evaluation_interval = math.ceil(steps / EVALUATIONS)
    context, batch = _window(row, budget.context, budget.batch)
    return Config(
        datasets=tuple(map(UPath, trial.datasets)),
        out=training_run(trial),
        model=row.model,
        mel=row.mel_variant,
        input_codebooks=row.input_codebooks,
        output_codebooks=row.output_codebooks,
        steps=steps,
        batch=batch,
        context=context,
        learning_rate=trial.learning_rate,
        precision=budget.precision,
        device=budget.device,
        compile=budget.compile,
        seed=trial.seed,
        eval_every=evaluation_interval,
        eval_batches=budget.evaluated_batches,
        clip_s=0,
        save_every=evaluation_interval,
        keep=1,
    )


def _window(row: Row, context: int, batch: int) -> tuple[int, int]:
    """Return the frames per window and the windows per step with which a row's window has as many positions as those of
    other rows, and its step as many frames."""
    return context // row.positions_per_frame, batch * row.positions_per_frame


def recipe() -> dict[str, Any]:
    """Return the training options that are the same in all trials, whatever the budget."""
    names = ("optimizer", "weight_decay", "warmup", "clip", "ema", "accumulate", "pack")
    defaults = Config((), Path())
    return {name: getattr(defaults, name) for name in names}


def _curve(run: Path, budget: Budget, codebooks: int) -> tuple[tuple[int, float], ...]:
    """Read the evaluations of a run from its TensorBoard log: nats per frame over all `codebooks`."""
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    nats_at: defaultdict[int, float] = defaultdict(float)
    for k in range(codebooks):
        for step, nats in {e.step: e.value for e in events.Scalars(f"validation/codebook_{k}/token_nats")}.items():
            nats_at[step] += nats
    return tuple((step * budget.batch * budget.context, nats) for step, nats in sorted(nats_at.items()))
