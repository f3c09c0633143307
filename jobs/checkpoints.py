"""A training run on disk: `RUN/checkpoints/step-NNNNNNNN/`, each written aside and renamed.

model.json, model.safetensors   the model, by itself enough to evaluate and generate
training.safetensors            the optimizer's moments and torch's random state
state.json                      step, place in the stream, time spent, the data it was trained on
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from jobs.errors import JobError
from manifests.dataset_info import differences
from model.checkpoint import load_model, load_safetensors, save_model
from model.hybrid import HybridLM
from pipeline.publish import sync_folder

_FOLDER = "checkpoints"
_RANDOM = "random.torch"


@dataclass(frozen=True)
class TrainedOn:
    """Which data a run was trained on: the dataset's fingerprint, and what went into it."""

    fingerprint: str
    codec: dict[str, Any]
    mel: dict[str, Any]


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands, beside its tensors."""

    step: int
    elapsed_s: float
    stream: dict[str, Any]
    order: dict[str, Any]  # what the stream's order depends on
    data: TrainedOn


def save_checkpoint(
    run: Path, model: HybridLM, optimizer: torch.optim.Optimizer, state: TrainingState, keep: int
) -> Path:
    """Write the checkpoint of `state.step`, then remove all but the newest `keep`."""
    folder = run / _FOLDER / f"step-{state.step:08d}"
    aside = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_model(model, aside)
    save_file(_optimizer_tensors(model, optimizer) | {_RANDOM: torch.get_rng_state()}, aside / "training.safetensors")
    (aside / "state.json").write_text(json.dumps(asdict(state), indent=1) + "\n", encoding="utf-8")
    for file in aside.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    aside.replace(folder)
    sync_folder(folder.parent)
    for old in checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return folder


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of `run`, oldest first."""
    return sorted((run / _FOLDER).glob("step-*"))


def newest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of `run`. Raises `JobError` where there is none."""
    found = checkpoints(run)
    if not found:
        raise JobError(f"{run}: no checkpoints in here; is this the --out of a training run?")
    return found[-1]


def load_run(run: Path) -> tuple[HybridLM, TrainingState]:
    """The newest model of `run`, ready to evaluate, and where the run stood."""
    folder = newest_checkpoint(run)
    return load_model(folder).eval(), read_state(folder)


def read_state(folder: Path) -> TrainingState:
    """The `state.json` of a checkpoint."""
    path = folder / "state.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return TrainingState(data=TrainedOn(**content.pop("data")), **content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise JobError(f"{path}: not the state of a training run ({error})") from error


def restore_training(folder: Path, model: HybridLM, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint's moments into `optimizer`, whose parameters are `model`'s, and its random state into torch."""
    tensors = load_safetensors(folder / "training.safetensors")
    torch.set_rng_state(tensors.pop(_RANDOM))
    for name, parameter in model.named_parameters():
        own = {key.rpartition("/")[2]: value for key, value in tensors.items() if key.rpartition("/")[0] == name}
        if own:
            optimizer.state[parameter] = own


def require_same_data(data: TrainedOn, other: TrainedOn, run: Path, dataset: Path) -> None:
    """Raise `JobError`, naming what differs, where a run and a dataset do not belong together."""
    if data.fingerprint == other.fingerprint:
        return
    what = "; ".join(differences(data.codec, data.mel, other.codec, other.mel))
    raise JobError(f"{run} was trained on other data than {dataset} holds: {what}")


def _optimizer_tensors(model: HybridLM, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
