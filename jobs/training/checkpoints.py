"""A training run on disk: `RUN/checkpoints/step-NNNNNNNN/`, each written aside and renamed.

config.json, model.safetensors  the model, by itself enough to evaluate and generate
training.safetensors            the optimizers' moments, and the raw weights where the model is their running average
state.json                      step, place in the stream, time spent, the data it was trained on, the best score, and
                                the hashes of the other files

Random numbers need no state: those of a step are seeded by the step's number.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.run_folder import (
    STATE_FILE,
    TrainingState,
    checkpoint_folder,
    checkpoints,
    newest_checkpoint,
    read_state,
    require_whole,
)
from whisper_gpt.manifests.location import file_sha256
from whisper_gpt.manifests.publish import publish_bytes, sync_folder
from whisper_gpt.model.checkpoint import load_safetensors, save_model
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.hybrid import HybridLM

_ASIDE = ".writing-"
_TRAINING_FILE = "training.safetensors"
_RAW = "raw/"  # before the names of weights that are not the averaged ones


def save_checkpoint(
    run: Path,
    model: HybridLM,
    optimizers: Sequence[torch.optim.Optimizer],
    average: AveragedModel | None,
    state: TrainingState,
    keep: int,
) -> Path:
    """Write the checkpoint of `state.step`, then remove all but the newest `keep` and the best.

    Raises `JobError` if it cannot be written, as on a full disk; those before it stay.
    """
    folder = checkpoint_folder(run, state.step)
    try:
        _write_checkpoint(folder, model, optimizers, average, state)
    except (OSError, SafetensorError, ModelError) as error:
        shutil.rmtree(_aside(folder), ignore_errors=True)
        again = "--resume" if checkpoints(run) else "run it again"
        why = error.__cause__ if isinstance(error, ModelError) else error
        raise JobError(f"{folder}: the checkpoint cannot be written ({why}); make room, then {again}") from error
    _remove_old(run, state, keep)
    return folder


def _write_checkpoint(
    folder: Path,
    model: HybridLM,
    optimizers: Sequence[torch.optim.Optimizer],
    average: AveragedModel | None,
    state: TrainingState,
) -> None:
    for left in folder.parent.glob(f"{_ASIDE}*"):  # by a process that was killed: only one writes
        shutil.rmtree(left, ignore_errors=True)
    aside = _aside(folder)
    aside.mkdir(parents=True)
    tensors = _optimizer_tensors(model, optimizers)
    if average is not None:
        tensors |= {_RAW + name: tensor for name, tensor in model.state_dict().items()}
    save_model(model if average is None else average.module, aside)
    save_file(tensors, aside / _TRAINING_FILE)
    files = {file.name: file_sha256(file) for file in sorted(aside.iterdir())}
    save_state(aside, replace(state, files=files))
    sync_files(aside)
    if folder.exists():
        folder.replace(folder.with_name(f"{_ASIDE}old-{folder.name}"))
    aside.replace(folder)
    sync_folder(folder.parent)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{_ASIDE}{folder.name}")


def save_state(folder: Path, state: TrainingState) -> None:
    """Write the state of a checkpoint into its folder."""
    (folder / STATE_FILE).write_bytes(_state_bytes(state))


def sync_files(folder: Path) -> None:
    """Have the files of `folder`, and their names, on the disk."""
    for file in folder.iterdir():
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    sync_folder(folder)


def update_state(run: Path, state: TrainingState, keep: int) -> None:
    """Write the state of the checkpoint of `state.step` anew, whose tensors stay; then remove as `save_checkpoint`."""
    path = checkpoint_folder(run, state.step) / STATE_FILE
    publish_bytes(path, _state_bytes(replace(state, files=read_state(path.parent).files)))
    _remove_old(run, state, keep)


def newest_whole_checkpoint(run: Path, say: Callable[[str], None]) -> Path:
    """The newest checkpoint of `run` whose files are what its state says; those that are not are set aside, and said.

    Raises `JobError` where none is whole.
    """
    while True:
        folder = newest_checkpoint(run)
        try:
            require_whole(folder)
            return folder
        except JobError as error:
            aside = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)
            say(f"{error}; set aside as {aside.name}, the one before it is taken")


def restore_training(
    folder: Path, model: HybridLM, optimizers: Sequence[torch.optim.Optimizer], average: AveragedModel | None
) -> None:
    """Put a checkpoint's moments into `optimizers`, whose parameters are `model`'s; where it was averaged, `model`
    becomes the raw one and `average` what was loaded."""
    tensors = load_safetensors(folder / _TRAINING_FILE)
    raw = {name.removeprefix(_RAW): tensors.pop(name) for name in list(tensors) if name.startswith(_RAW)}
    if average is not None and raw:
        average.module.load_state_dict(model.state_dict())
        average.n_averaged += 1
    if raw:
        model.load_state_dict(raw)
    for name, parameter in model.named_parameters():
        own = {key.rpartition("/")[2]: value for key, value in tensors.items() if key.rpartition("/")[0] == name}
        for optimizer in optimizers:
            if own and any(parameter is p for group in optimizer.param_groups for p in group["params"]):
                optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in own.items()}


def _state_bytes(state: TrainingState) -> bytes:
    return (json.dumps(asdict(state), indent=1) + "\n").encode()


def _remove_old(run: Path, state: TrainingState, keep: int) -> None:
    for old in checkpoints(run)[:-keep]:
        if state.best is None or old != checkpoint_folder(run, state.best.step):
            shutil.rmtree(old)


def _optimizer_tensors(model: HybridLM, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }
