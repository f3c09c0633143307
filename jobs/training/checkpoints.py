"""Write and restore checkpoints: `RUN/checkpoints/step-NNNNNNNN/`, each written to a temporary folder and renamed.

config.json, model.safetensors  the model, sufficient to evaluate and generate
training.safetensors            the optimizers' moments, and the raw weights if the model is their average
state.json                      step, position in the stream, time spent, the data it was trained on, the best score,
                                and the hashes of the other files

Random numbers need no state: each step is seeded by its number.
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
from whisper_gpt.model.language_model import LanguageModel

_WRITING = ".writing-"
_TRAINING_FILE = "training.safetensors"
_RAW = "raw/"  # name prefix of the weights that are not averaged


def save_checkpoint(
    run: Path,
    model: LanguageModel,
    optimizers: Sequence[torch.optim.Optimizer],
    average: LanguageModel | None,
    state: TrainingState,
    keep: int,
) -> Path:
    """Write the checkpoint of `state.step`, then remove all but the newest `keep` and the best.

    Raises `JobError` if it cannot be written, as on a full disk; earlier checkpoints stay.
    """
    folder = checkpoint_folder(run, state.step)
    try:
        _write_checkpoint(folder, model, optimizers, average, state)
    except (OSError, SafetensorError, ModelError) as error:
        shutil.rmtree(_temporary(folder), ignore_errors=True)
        remedy = "resume with --resume" if checkpoints(run) else "rerun"
        why = error.__cause__ if isinstance(error, ModelError) else error
        raise JobError(f"{folder}: the checkpoint cannot be written ({why}); free some space, then {remedy}") from error
    _remove_old(run, state, keep)
    return folder


def _write_checkpoint(
    folder: Path,
    model: LanguageModel,
    optimizers: Sequence[torch.optim.Optimizer],
    average: LanguageModel | None,
    state: TrainingState,
) -> None:
    for stale in folder.parent.glob(f"{_WRITING}*"):  # of a killed process, as only one writes at a time
        shutil.rmtree(stale, ignore_errors=True)
    temporary = _temporary(folder)
    temporary.mkdir(parents=True)
    tensors = _optimizer_tensors(model, optimizers)
    if average is not None:
        tensors |= {_RAW + name: tensor for name, tensor in model.state_dict().items()}
    save_model(model if average is None else average, temporary)
    save_file(tensors, temporary / _TRAINING_FILE)
    files = {file.name: file_sha256(file) for file in sorted(temporary.iterdir())}
    save_state(temporary, replace(state, files=files))
    sync_files(temporary)
    if folder.exists():
        folder.replace(folder.with_name(f"{_WRITING}old-{folder.name}"))
    temporary.replace(folder)
    sync_folder(folder.parent)


def _temporary(folder: Path) -> Path:
    return folder.with_name(f"{_WRITING}{folder.name}")


def save_state(folder: Path, state: TrainingState) -> None:
    """Write the state of a checkpoint into its folder."""
    (folder / STATE_FILE).write_bytes(_state_bytes(state))


def sync_files(folder: Path) -> None:
    """Flush the files of `folder`, and their names, to disk (fsync)."""
    for file in folder.iterdir():
        if file.is_file():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    sync_folder(folder)


def update_state(run: Path, state: TrainingState, keep: int) -> None:
    """Rewrite the state, not the tensors, of the checkpoint of `state.step`; then clean up like `save_checkpoint`."""
    path = checkpoint_folder(run, state.step) / STATE_FILE
    publish_bytes(path, _state_bytes(replace(state, files=read_state(path.parent).files)))
    _remove_old(run, state, keep)


def newest_whole_checkpoint(run: Path, log: Callable[[str], None]) -> Path:
    """Return the newest checkpoint of `run` whose files match the hashes in its state.

    Newer, corrupt ones are renamed to `damaged-…` and logged. Raises `JobError` if none is intact.
    """
    while True:
        folder = newest_checkpoint(run)
        try:
            require_whole(folder)
            return folder
        except JobError as error:
            damaged = folder.with_name(f"damaged-{folder.name}")
            shutil.rmtree(damaged, ignore_errors=True)
            folder.replace(damaged)
            log(f"{error}; renamed to {damaged.name}, using the one before it")


def restore_training(
    folder: Path, model: LanguageModel, optimizers: Sequence[torch.optim.Optimizer], average: LanguageModel | None
) -> None:
    """Load a checkpoint's moments into `optimizers` of `model`. If the run averages its weights, move the loaded ones
    to `average`, and load the raw weights into `model`."""
    tensors = load_safetensors(folder / _TRAINING_FILE)
    raw = {name.removeprefix(_RAW): tensors.pop(name) for name in list(tensors) if name.startswith(_RAW)}
    if average is not None and raw:
        average.load_state_dict(model.state_dict())
    if raw:
        model.load_state_dict(raw)
    for name, parameter in model.named_parameters():
        moments = {key.rpartition("/")[2]: value for key, value in tensors.items() if key.rpartition("/")[0] == name}
        for optimizer in optimizers:
            if moments and any(parameter is p for group in optimizer.param_groups for p in group["params"]):
                optimizer.state[parameter] = {key: value.to(parameter.device) for key, value in moments.items()}


def _state_bytes(state: TrainingState) -> bytes:
    return (json.dumps(asdict(state), indent=1) + "\n").encode()


def _remove_old(run: Path, state: TrainingState, keep: int) -> None:
    for old in checkpoints(run)[:-keep]:
        if state.best is None or old != checkpoint_folder(run, state.best.step):
            shutil.rmtree(old)


def _optimizer_tensors(model: LanguageModel, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": value.contiguous()
        for name, parameter in model.named_parameters()
        for optimizer in optimizers
        for key, value in optimizer.state.get(parameter, {}).items()
    }
