"""From trained trials to the rows of the table: scores on the test split, summed by speaker, over all seeds."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.ngram_baselines import NGRAM_ORDERS, count_training, score_ngram
from whisper_gpt.jobs.inference.scoring import WindowScore, model_scores
from whisper_gpt.jobs.reproduction.plan import Domain, Search, chosen_trials, ngram_folders
from whisper_gpt.jobs.reproduction.rows import Row
from whisper_gpt.jobs.reproduction.trials import Budget, Trial, require_trained, windows
from whisper_gpt.jobs.training.distributed import single_process
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.model.hybrid import HybridLM


# Compared and hashed by identity: arrays have no single equality, and `statistics` remembers what it found of a row.
@dataclass(frozen=True, eq=False)
class RowResult:
    """One row of the table on one domain, all seeds; raises `ValueError` where the shapes do not fit together."""

    row: str  # 'gpt-4m', 'gpt-40m', 'gpt-4m-all-codes', 'hybrid-4m', 'hybrid-4m-codes-1', 'mel-alone', 'unigram', …
    tag: str  # 'a' to 'f', or 'floor'
    description: str  # what it reads: 'token-only', 'all 8 codebooks summed', 'real causal mel', …
    parameters: int
    flops_per_token: float  # of training; 0 for floors
    learning_rate: float | None  # None: a floor
    tokens_trained: int
    wall_s: float  # mean over seeds
    seeds: tuple[int, ...]
    groups: tuple[str, ...]  # the N speakers (recordings, where unknown) of the split, alike in every row of a domain
    recordings: int  # in all groups
    tokens: np.ndarray  # int64 [N], scored tokens of each group, at least 1
    nats: np.ndarray  # float64 [S, N], sums over the tokens, by seed
    hits: np.ndarray  # int64 [S, N]
    position_nats: np.ndarray  # float64 [C], sums by position in the window, over all seeds
    position_tokens: np.ndarray  # int64 [C]
    curves: tuple[tuple[tuple[int, float], ...], ...]  # by seed: (tokens trained so far, validation nats per token)

    def __post_init__(self) -> None:
        # A wrong shape would broadcast, and give a number that looks right.
        count, by_seed = len(self.groups), (len(self.seeds), len(self.groups))
        fits = self.tokens.shape == (count,) and self.nats.shape == by_seed and self.hits.shape == by_seed
        if not fits or not count or not self.seeds or (self.tokens < 1).any():
            raise ValueError(
                f"{self.row}: {len(self.seeds)} seeds and {count} groups do not fit tokens {self.tokens.shape}, "
                f"nats {self.nats.shape}, hits {self.hits.shape}; each group needs at least 1 token"
            )
        if self.position_nats.ndim != 1 or self.position_nats.shape != self.position_tokens.shape:
            raise ValueError(
                f"{self.row}: position_nats {self.position_nats.shape}, position_tokens {self.position_tokens.shape}"
            )

    @property
    def floor(self) -> bool:
        """Counted, not trained."""
        return self.learning_rate is None


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
    device = single_process(budget.device).device
    model = HybridLM.from_pretrained(trial.folder).to(device)
    scores = model_scores(model, windows(trial, budget, "test", device))
    _publish(trial.folder, _add_up(scores, trial.dataset, budget.context, model.parameter_count()))


def score_ngrams(dataset: Location, folders: dict[str, Path], budget: Budget) -> None:
    """Count the training split, and score each floor on the test split, into its folder."""
    counts = count_training(dataset, budget.context)
    for name, folder in folders.items():
        ngram, scores = score_ngram(counts, name, dataset, "test", budget.context)
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
        hits[recording] += int(score.correct.sum())
        position_nats[:frames] += score.nats
        position_tokens[:frames] += 1
    names = sorted(tokens)
    by_recording = [tokens[name] for name in names], [nats[name] for name in names], [hits[name] for name in names]
    return Scores(parameters, names, *by_recording, position_nats.tolist(), position_tokens.tolist())


def row_results(domain: Domain, search: Search, results: Path) -> list[RowResult]:
    """The results of the floors and all rows of a domain, once all is done. Raises `JobError` where they are of other
    tokens, as when the dataset was made anew meanwhile."""
    groups = groups_of(domain.dataset)
    floors = ngram_folders(results, domain)
    found = [_floor_result(name, folder, domain, groups) for name, folder in floors.items()]
    found += [_row_result(row, chosen_trials(results, domain, row, search), groups) for row in domain.rows]
    for row in found[1:]:
        if not np.array_equal(row.tokens, found[0].tokens):
            rows = f"{row.row} and {found[0].row}"
            raise JobError(f"{results}: {rows} were scored on other tokens of {domain.name}; use another --out")
    return found


def scored_besides(domain: Domain, search: Search, results: Path) -> int:
    """How many models of a domain were scored on the test split at a rate that is not the chosen one any more."""
    chosen = {trial.folder for row in domain.rows for trial in chosen_trials(results, domain, row, search)}
    return sum(
        read_scores(path.parent) is not None
        for row in domain.rows
        for path in (results / "trials" / domain.name / row.name).glob("*/trial.json")
        if path.parent not in chosen
    )


def _row_result(row: Row, trials: Sequence[Trial], groups: dict[str, str]) -> RowResult:
    found, scores = [require_trained(trial) for trial in trials], [require_scores(trial.folder) for trial in trials]
    return RowResult(
        row=row.name,
        tag=row.tag,
        description=row.description,
        parameters=found[0].parameters,
        flops_per_token=found[0].flops_per_token,
        learning_rate=trials[0].learning_rate,
        tokens_trained=found[0].tokens,
        wall_s=sum(one.wall_s for one in found) / len(found),
        seeds=tuple(trial.seed for trial in trials),
        curves=tuple(tuple(one.curve) for one in found),
        **_sums(scores, groups),
    )


def _floor_result(name: str, folder: Path, domain: Domain, groups: dict[str, str]) -> RowResult:
    scores = require_scores(folder)
    return RowResult(
        row=name,
        tag="floor",
        description=f"counts, order {NGRAM_ORDERS[name]}",
        parameters=scores.parameters,
        flops_per_token=0.0,
        learning_rate=None,
        tokens_trained=domain.info.splits["train"].frames,
        wall_s=0.0,
        seeds=(0,),
        curves=(),
        **_sums([scores], groups),
    )


def _sums(scores: Sequence[Scores], groups: dict[str, str]) -> dict[str, Any]:
    """Of each group of recordings, by seed. Raises `JobError` where other recordings than `groups` has were scored."""
    recordings = scores[0].recordings
    if any(set(one.recordings) != set(groups) or one.recordings != recordings for one in scores):
        raise JobError("trials were scored on other recordings than the dataset holds; use another --out")
    names, group_of = np.unique([groups[recording] for recording in recordings], return_inverse=True)

    def by_group(values: Sequence[float]) -> np.ndarray:
        return np.bincount(group_of, weights=values)  # exact for counts: they are whole numbers in float64

    return {
        "groups": tuple(names.tolist()),
        "recordings": len(recordings),
        "tokens": by_group(scores[0].tokens).astype(np.int64),
        "nats": np.array([by_group(one.nats) for one in scores]),
        "hits": np.array([by_group(one.hits) for one in scores]).astype(np.int64),
        "position_nats": np.sum([one.position_nats for one in scores], axis=0),
        "position_tokens": np.sum([one.position_tokens for one in scores], axis=0),
    }
