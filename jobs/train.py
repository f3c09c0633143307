"""Train a hybrid or a token-only model from a dataset's shards; --resume goes on where a run stopped."""

import itertools
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from torchdata.nodes import BaseNode
from tyro.conf import Positional

from jobs.checkpoints import (
    TrainedOn,
    TrainingState,
    checkpoints,
    newest_checkpoint,
    read_state,
    require_same_data,
    restore_training,
    save_checkpoint,
)
from jobs.config_files import resume_with_saved_options, save_config
from jobs.errors import JobError, require
from jobs.progress import share_done, status_console, training_progress
from jobs.scoring import score_model
from jobs.stop_signals import stop_signals
from manifests.dataset_info import DatasetInfo, read_info
from model.checkpoint import load_model
from model.config import preset
from model.hybrid import HybridLM
from model.objective import Losses, training_losses
from pipeline.stream import Batch, StreamConfig, batches, stream

CONFIG_FILE = "train.yaml"


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt train`."""

    dataset: Positional[Path]
    """Folder of a dataset that `preprocess` made."""
    out: Path
    """Folder of the run: checkpoints, TensorBoard, the resolved options."""
    model: Literal["hybrid-4m", "gpt-4m", "gpt-40m"] = "hybrid-4m"
    """hybrid-4m reads mel frames and tokens, the others tokens alone."""
    steps: int = 5000
    """Optimizer steps."""
    minutes: float | None = None
    """Stop after this many minutes if that is sooner; the learning rate then follows the clock."""
    batch: int = 8
    """Windows a step."""
    context: int = 512
    """Frames a window: 512 are 6.8 s."""
    learning_rate: float = 1e-3
    """Its peak, after the warm-up."""
    warmup: float = 0.05
    """Share of the run over which the learning rate rises; then it falls to a tenth along a cosine."""
    weight_decay: float = 0.1
    """Of the matrices; vectors are not decayed."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    seed: int = 0
    """Of the initial weights, the noise and the order of the data."""
    eval_every: int = 500
    """Steps between scores on the validation split."""
    eval_batches: int = 16
    """Batches of the validation split scored each time."""
    save_every: int = 500
    """Steps between checkpoints; the last step always makes one."""
    keep: int = 2
    """Checkpoints to keep."""
    resume: bool = False
    """Go on from the newest checkpoint in --out, with the options it was started with unless they are given again."""


def with_saved_options(arguments: list[str]) -> list[str]:
    """With --resume, the options that the run was started with are the defaults of those on the line."""
    return resume_with_saved_options(arguments, CONFIG_FILE)


def run(config: Config) -> int:
    """Train, with checkpoints, TensorBoard and a progress bar → exit code 0."""
    _check(config)
    console = status_console()
    info = read_info(config.dataset)
    data = TrainedOn(info.fingerprint, info.codec, info.mel)
    torch.manual_seed(config.seed)
    node = stream(config.dataset, "train", StreamConfig(config.context, config.batch, config.seed))
    if config.resume:
        model, optimizer, state = _resume(config, info, data, node)
    else:
        if checkpoints(config.out):
            raise JobError(f"{config.out} holds a training run; pass --resume to go on with it, or another --out")
        model = _new_model(config, info)
        optimizer = _optimizer(model, config)
        state = TrainingState(0, 0.0, node.state_dict(), _order(config, info), data)
    save_config(config, config.out / CONFIG_FILE, without=["resume"])
    console.print(f"{config.model}: {model.parameter_count() / 1e6:.2f} M parameters")
    validation = _validation_stream(config, info)
    if validation is None:
        console.print("the dataset has no validation split: nothing will show whether the model overfits")
    with SummaryWriter(str(config.out / "tensorboard"), purge_step=state.step + 1) as writer:
        _train(config, model, optimizer, node, validation, state, writer, console)
    console.print(f"{newest_checkpoint(config.out)}")
    return 0


def _train(
    config: Config,
    model: HybridLM,
    optimizer: torch.optim.Optimizer,
    node: BaseNode[Batch],
    validation: BaseNode[Batch] | None,
    state: TrainingState,
    writer: SummaryWriter,
    console: Console,
) -> None:
    """The loop: step, measure, now and then score and save."""
    model.train()
    step, started = state.step, time.monotonic() - state.elapsed_s
    waited = 0.0
    first = done = _progress(config, step, state.elapsed_s)
    with training_progress(console, config.steps, step) as show, stop_signals() as stopped:
        while done < 1 and not stopped():
            asked = time.monotonic()
            batch = next(node)
            got = time.monotonic()
            waited += got - asked
            rate = learning_rate(config, done)
            losses, gradient_norm = train_step(model, optimizer, batch, rate, config.clip)
            step += 1
            tokens_per_s = int(batch.mask.sum()) / (time.monotonic() - asked)
            elapsed = time.monotonic() - started
            wait_share = waited / (elapsed - state.elapsed_s)
            scalars = {
                "train/token_nats": losses.token_nats.item(),
                "train/mel_nats": losses.mel_nats.item(),
                "train/accuracy": losses.accuracy.item(),
                "train/gradient_norm": gradient_norm,
                "train/learning_rate": rate,
                "speed/tokens_per_s": tokens_per_s,
                "speed/data_wait_share": wait_share,
            }
            for name, value in scalars.items():
                writer.add_scalar(name, value, step)
            done = _progress(config, step, elapsed)  # asked once a step: the last step is validated and saved
            eta_s = (elapsed - state.elapsed_s) * max(0.0, 1 - done) / max(done - first, 1e-9)
            show(step, scalars["train/token_nats"], scalars["train/accuracy"], tokens_per_s, wait_share, eta_s)
            if validation is not None and (done >= 1 or step % config.eval_every == 0):
                score = score_model(model, itertools.islice(batches(validation), config.eval_batches))
                writer.add_scalar("validation/token_nats", score.nll, step)
                writer.add_scalar("validation/accuracy", score.accuracy, step)
                console.print(f"step {step}: validation {score.nll:.3f} nats, {score.accuracy:.1%} right")
            if done >= 1 or stopped() or step % config.save_every == 0:
                now = TrainingState(step, elapsed, node.state_dict(), state.order, state.data)
                save_checkpoint(config.out, model, optimizer, now, config.keep)
    if done < 1:
        raise JobError(f"stopped by a signal at step {step}; whisper-gpt train --out {config.out} --resume goes on")


def train_step(
    model: HybridLM, optimizer: torch.optim.Optimizer, batch: Batch, rate: float, clip: float
) -> tuple[Losses, float]:
    """One optimizer step on `batch` at the learning rate `rate` → the losses before it and the gradient's norm."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    losses = training_losses(model, batch.codes[:, 0], batch.mel, batch.mask)
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    gradient_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return losses, float(gradient_norm)


def learning_rate(config: Config, done: float) -> float:
    """The rate after the share `done` of a run: a linear rise, then a cosine down to a tenth of the peak."""
    if done < config.warmup:
        return config.learning_rate * (done + 1e-3) / (config.warmup + 1e-3)
    falling = (done - config.warmup) / (1 - config.warmup)
    return config.learning_rate * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, falling))))


def _check(config: Config) -> None:
    for name in ("steps", "batch", "context", "eval_every", "eval_batches", "save_every", "keep"):
        require(getattr(config, name) >= 1, f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")
    require(config.minutes is None or config.minutes > 0, f"--minutes {config.minutes}: must be above zero")
    require(config.learning_rate > 0, f"--learning-rate {config.learning_rate}: must be above zero")
    require(0 <= config.warmup < 1, f"--warmup {config.warmup}: must be a share of the run, 0 to 1")
    require(config.seed >= 0, f"--seed {config.seed}: must not be negative")


def _progress(config: Config, step: int, elapsed_s: float) -> float:
    return share_done(step, config.steps, elapsed_s, config.minutes)


def _validation_stream(config: Config, info: DatasetInfo) -> BaseNode[Batch] | None:
    """The validation split in its fixed order, or None where the dataset has none."""
    if "validation" not in info.splits:
        return None
    return stream(config.dataset, "validation", StreamConfig(config.context, config.batch, shuffle=False))


def _new_model(config: Config, info: DatasetInfo) -> HybridLM:
    shape = preset(config.model, vocab=info.codec["codebook_size"], context=config.context, mel_bands=info.mel["bands"])
    model = HybridLM(shape)
    if shape.hybrid:
        model.mel_encoder.set_statistics(torch.tensor(info.mel_mean), torch.tensor(info.mel_std))
    return model


def _order(config: Config, info: DatasetInfo) -> dict[str, Any]:
    """What decides the order of the windows, so that a place in it means anything."""
    return {"seed": config.seed, "plans_sha256": info.plans_sha256}


def _resume(
    config: Config, info: DatasetInfo, data: TrainedOn, node: BaseNode[Batch]
) -> tuple[HybridLM, torch.optim.Optimizer, TrainingState]:
    folder = newest_checkpoint(config.out)
    state = read_state(folder)
    require_same_data(state.data, data, config.out, config.dataset)
    if state.order["plans_sha256"] != info.plans_sha256:
        raise JobError(f"{folder} was trained on another dataset than {config.dataset}; pass that one")
    if state.order["seed"] != config.seed:
        raise JobError(
            f"{folder} was trained with --seed {state.order['seed']}, not {config.seed}; the order would differ"
        )
    model = load_model(folder)
    if (model.config.name, model.config.context) != (config.model, config.context):
        raise JobError(
            f"{folder} holds a {model.config.name} of context {model.config.context}, not a {config.model} of "
            f"context {config.context}; pass what it was trained with, or another --out"
        )
    optimizer = _optimizer(model, config)
    restore_training(folder, model, optimizer)
    node.reset(state.stream)
    return model, optimizer, state


def _optimizer(model: HybridLM, config: Config) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)
