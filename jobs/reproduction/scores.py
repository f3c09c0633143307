"""What a row scored on the test split, recording by recording and by position, in `test.json` of its folder."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.ngram_baselines import count_training, score_floor
from whisper_gpt.jobs.inference.scoring import WindowScore, model_scores
from whisper_gpt.jobs.reproduction.trials import Budget, Trial, windows
from whisper_gpt.jobs.training.distributed import alone
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.model.hybrid import HybridLM

_SCORES_FILE = "test.json"


@dataclass(frozen=True)
class Scores:
    """Sums over each recording (`tokens`, `nats`, `hits` `[N]`) and each position in a window (`[C]`); a model's
    `parameters`, which of an n-gram model are those n-grams that it keeps."""

    parameters: int
    recordings: list[str]
    tokens: list[int]
    nats: list[float]
    hits: list[int]
    position_nats: list[float]
    position_tokens: list[int]


def score_trial(trial: Trial, budget: Budget) -> None:
    """Score a trained trial on the test split, in fp32 however it was trained. In a process of its own."""
    torch.set_num_threads(budget.threads)
    device = alone(budget.device).device
    model = HybridLM.from_pretrained(trial.folder).to(device)
    scores = model_scores(model, windows(trial, budget, "test", device))
    _publish(trial.folder, _add_up(scores, trial.dataset, budget.context, model.parameter_count()))


def score_floors(dataset: Location, folders: dict[str, Path], budget: Budget) -> None:
    """Count the training split, and score each floor on the test split, into its folder."""
    counts = count_training(dataset, budget.context)
    for name, folder in folders.items():
        ngram, scores = score_floor(counts, name, dataset, "test", budget.context)
        _publish(folder, _add_up(scores, dataset, budget.context, ngram.parameter_count()))


def read_scores(folder: Path) -> Scores | None:
    """The scores in `folder`; None where there are none yet."""
    path = folder / _SCORES_FILE
    return Scores(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def require_scores(folder: Path) -> Scores:
    """The scores in `folder`. Raises `JobError` where there are none yet."""
    found = read_scores(folder)
    if found is None:
        raise JobError(f"{folder}: not scored yet; rerun to go on")
    return found


def groups_of(dataset: Location) -> dict[str, str]:
    """The group of each recording of the test split: its speaker, or itself where none is known."""
    samples = read_samples(dataset, "test", ["source", "corpus", "speaker"]).to_pylist()
    return {one["source"]: f"{one['corpus']} {one['speaker']}" if one["speaker"] else one["source"] for one in samples}


def _publish(folder: Path, scores: Scores) -> None:
    publish_bytes(folder / _SCORES_FILE, (json.dumps(asdict(scores)) + "\n").encode())


def _add_up(scores: Iterable[WindowScore], dataset: Location, context: int, parameters: int) -> Scores:
    samples = read_samples(dataset, "test", ["key", "source"])
    recording_of = dict(zip(samples["key"].to_pylist(), samples["source"].to_pylist(), strict=True))
    tokens, hits = dict.fromkeys(recording_of.values(), 0), dict.fromkeys(recording_of.values(), 0)
    nats = dict.fromkeys(recording_of.values(), 0.0)
    position_nats, position_tokens = np.zeros(context), np.zeros(context, np.int64)
    for score in scores:
        recording, frames = recording_of[score.key], len(score.nats)
        tokens[recording] += frames
        nats[recording] += float(score.nats.sum())
        hits[recording] += int(score.hits.sum())
        position_nats[:frames] += score.nats
        position_tokens[:frames] += 1
    names = sorted(tokens)
    by_recording = [tokens[name] for name in names], [nats[name] for name in names], [hits[name] for name in names]
    return Scores(parameters, names, *by_recording, position_nats.tolist(), position_tokens.tolist())
