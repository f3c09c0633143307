"""Read the folder of a training run: checkpoints, their state and model, and the data it was trained on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.manifests.dataset_info import DatasetInfo, differences
from whisper_gpt.manifests.location import Location, file_sha256
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.language_model import LanguageModel, load_model

_FOLDER = "checkpoints"

STATE_FILE = "state.json"


@dataclass(frozen=True)
class TrainedOn:
    """The data a run was trained on: the datasets' fingerprint, its codec and mel settings, and the mel variant."""

    fingerprint: str
    codec: dict[str, Any]
    mel: dict[str, Any]
    mel_variant: str


@dataclass(frozen=True)
class Best:
    """The best validation score, in nats per frame over all codebooks that the model predicts, and its step."""

    step: int
    nats: float


@dataclass(frozen=True)
class TrainingState:
    """The state of a run, without its tensors."""

    step: int
    elapsed_s: float
    stream: dict[str, Any] | None  # None: at the start
    order: dict[str, Any]  # what the order of the stream depends on
    data: TrainedOn
    optimizer: str
    best: Best | None = None
    skipped: int = 0  # steps whose numbers were out of bounds
    unscored: bool = False  # whether this step's evaluation is still to be done
    damaged: dict[str, str] = field(default_factory=dict)  # unreadable samples that rank 0 skipped, and why
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of the checkpoint's other files


def checkpoint_folder(run: Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return run / _FOLDER / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoints of `run`, oldest first."""
    return sorted((run / _FOLDER).glob("step-*"))


def newest_checkpoint(run: Path) -> Path:
    """Return the newest checkpoint of `run`. Raises `JobError` if there is none."""
    folders = checkpoints(run)
    if not folders:
        raise JobError(f"{run}: no checkpoints; is this the --out of a training run?")
    return folders[-1]


def require_whole(folder: Path) -> None:
    """Raise `JobError` if a file of a checkpoint does not match the hash in its state."""
    for name, sha256 in read_state(folder).files.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:  # read errors propagate
            raise JobError(f"{path}: damaged, differs from what was written")


def chosen_checkpoint(path: Path, best: bool) -> Path:
    """Return the newest or best checkpoint of the run at `path`, or `path` itself if it is a checkpoint."""
    if (path / STATE_FILE).is_file():
        return path
    newest = newest_checkpoint(path)
    state = read_state(newest)
    if not best:
        return newest
    if state.best is None or not checkpoint_folder(path, state.best.step).is_dir():
        raise JobError(f"{path}: has no best checkpoint; none was scored in training, or it was damaged")
    return checkpoint_folder(path, state.best.step)


def load_run(path: Path, best: bool = False) -> tuple[LanguageModel, TrainingState]:
    """Load the newest (or best) model of a run, or that of a checkpoint, in evaluation mode, and its state."""
    folder = chosen_checkpoint(path, best)
    return load_model(folder), read_state(folder)


def load_frame_model(path: Path, best: bool = False) -> tuple[HybridLM, TrainingState]:
    """As `load_run`, for a model that finishes a frame before the next. Raises `JobError` for another one."""
    model, state = load_run(path, best)
    if not isinstance(model, HybridLM):
        raise JobError(
            f"{path}: {model.config.name} has the {model.config.pattern} pattern, which does not predict frame by "
            "frame; it can only be trained and evaluated"
        )
    return model, state


def read_state(folder: Path) -> TrainingState:
    """Read the `state.json` of a checkpoint. Raises `JobError` if it is missing or invalid."""
    path = folder / STATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        data, best = TrainedOn(**content.pop("data")), content.pop("best")
        return TrainingState(data=data, best=Best(**best) if best else None, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise JobError(f"{path}: not the state of a training run of this version of whisper-gpt ({error})") from error


def trained_on(info: DatasetInfo, mel_variant: str | None = None) -> TrainedOn:
    """Return the data of a dataset read with a mel variant, the first by default."""
    return TrainedOn(info.fingerprint, info.codec, info.mel, mel_variant or info.mel["variants"][0])


def require_same_data(data: TrainedOn, other: TrainedOn, run: Path, dataset: Location) -> None:
    """Raise `JobError` if a run was trained on other data than a dataset's; the message says what differs."""
    if (data.fingerprint, data.mel_variant) == (other.fingerprint, other.mel_variant):
        return
    variants = [] if data.mel_variant == other.mel_variant else [f"mel of {data.mel_variant} / {other.mel_variant}"]
    what = "; ".join(differences(data.codec, data.mel, other.codec, other.mel) + variants)
    raise JobError(f"{run} was trained on other data than {dataset} holds: {what}")
