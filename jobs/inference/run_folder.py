"""Reading the folder of a training run: its checkpoints, their state and model, and the data it was trained on."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.manifests.dataset_info import DatasetInfo, differences
from whisper_gpt.manifests.location import Location, file_sha256
from whisper_gpt.model.hybrid import HybridLM

_FOLDER = "checkpoints"

STATE_FILE = "state.json"


@dataclass(frozen=True)
class TrainedOn:
    """Which data a run was trained on: the datasets' fingerprint, what went into it, and which view of the mel."""

    fingerprint: str
    codec: dict[str, Any]
    mel: dict[str, Any]
    view: str


@dataclass(frozen=True)
class Best:
    """The best score on the validation split, nats per token, and the step that had it."""

    step: int
    nats: float


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands, beside its tensors."""

    step: int
    elapsed_s: float
    stream: dict[str, Any] | None  # None: at its start
    order: dict[str, Any]  # what the stream's order depends on
    data: TrainedOn
    optimizer: str
    best: Best | None = None
    skipped: int = 0  # steps whose numbers were out of bounds
    unscored: bool = False  # whether this step's evaluation is still to be done
    damaged: dict[str, str] = field(default_factory=dict)  # samples that the leader left out, and why
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of the checkpoint's other files


def checkpoint_folder(run: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return run / _FOLDER / f"step-{step:08d}"


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of `run`, oldest first."""
    return sorted((run / _FOLDER).glob("step-*"))


def newest_checkpoint(run: Path) -> Path:
    """The newest checkpoint of `run`. Raises `JobError` where there is none."""
    found = checkpoints(run)
    if not found:
        raise JobError(f"{run}: no checkpoints in here; is this the --out of a training run?")
    return found[-1]


def require_whole(folder: Path) -> None:
    """Raise `JobError`, naming the file, unless a checkpoint's files are what its state says."""
    for name, sha256 in read_state(folder).files.items():
        path = folder / name
        if not path.is_file() or file_sha256(path) != sha256:  # what cannot be read at all is another matter
            raise JobError(f"{path}: damaged, not the file that was written")


def chosen_checkpoint(path: Path, best: bool) -> Path:
    """The newest or the best checkpoint of the run at `path`, or `path` itself where it is a checkpoint."""
    if (path / STATE_FILE).is_file():
        return path
    newest = newest_checkpoint(path)
    state = read_state(newest)
    if not best:
        return newest
    if state.best is None or not checkpoint_folder(path, state.best.step).is_dir():
        raise JobError(f"{path}: has no best checkpoint; nothing was scored while it was trained, or it was damaged")
    return checkpoint_folder(path, state.best.step)


def load_run(path: Path, best: bool = False) -> tuple[HybridLM, TrainingState]:
    """The newest (or best) model of a run, or that of a checkpoint, ready to evaluate, and where the run stood."""
    folder = chosen_checkpoint(path, best)
    return HybridLM.from_pretrained(folder), read_state(folder)


def read_state(folder: Path) -> TrainingState:
    """The `state.json` of a checkpoint."""
    path = folder / STATE_FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        data, best = TrainedOn(**content.pop("data")), content.pop("best")
        return TrainingState(data=data, best=Best(**best) if best else None, **content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise JobError(f"{path}: not the state of a training run ({error})") from error


def trained_on(info: DatasetInfo, view: str | None = None) -> TrainedOn:
    """The data of a dataset, read with a view of its mel: the first where none is named."""
    return TrainedOn(info.fingerprint, info.codec, info.mel, view or info.mel["views"][0])


def require_same_data(data: TrainedOn, other: TrainedOn, run: Path, dataset: Location) -> None:
    """Raise `JobError`, naming what differs, where a run and a dataset do not belong together."""
    if (data.fingerprint, data.view) == (other.fingerprint, other.view):
        return
    views = [] if data.view == other.view else [f"mel of {data.view} / {other.view}"]
    what = "; ".join(differences(data.codec, data.mel, other.codec, other.mel) + views)
    raise JobError(f"{run} was trained on other data than {dataset} holds: {what}")
