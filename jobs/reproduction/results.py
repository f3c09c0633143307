"""Rows of the table from trained trials: scores on the test split, summed by speaker, for all seeds."""

import json
from collections.abc import Iterable, Mapping, Sequence
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
from whisper_gpt.model.language_model import load_model


# Compared and hashed by identity: array equality is not a single bool, and `statistics` caches results per row.
@dataclass(frozen=True, eq=False)
class RowResult:
    """One row of the table on one domain, all seeds. Raises `ValueError` if the shapes do not match."""

    row: str  # 'gpt-4m', 'gpt-40m', 'gpt-4m-all-codes', 'hybrid-4m', 'hybrid-4m-codes-1', 'mel-alone', 'unigram', …
    tag: str  # 'a' to 'f', or 'baseline' for n-gram baselines
    description: str  # its input: 'token-only', 'all 8 codebooks summed', 'real causal mel', …
    parameters: int
    flops_per_token: float  # of training; 0 for n-gram baselines
    learning_rate: float | None  # None: an n-gram baseline
    tokens_trained: int
    wall_s: float  # mean over seeds
    seeds: tuple[int, ...]
    groups: tuple[str, ...]  # the N speakers (recordings, if unknown) of the split, the same in all rows of a domain
    recordings: int  # in all groups
    tokens: np.ndarray  # int64 [N], scored tokens of each group, at least 1
    nats: np.ndarray  # float64 [S, N], sums over the tokens and the codebooks that the row predicts, by seed
    correct: np.ndarray  # int64 [S, N], top-1 correct predictions of codebook 0
    position_nats: np.ndarray  # float64 [C], sums by position in the window, over all seeds
    position_tokens: np.ndarray  # int64 [C]
    curves: tuple[tuple[tuple[int, float], ...], ...]  # by seed: (tokens trained so far, validation nats per frame)
    codebook_nll: tuple[float, ...]  # of each codebook that the row predicts, mean over seeds; their sum is the NLL

    def __post_init__(self) -> None:
        # A wrong shape would broadcast, and give plausible but wrong numbers.
        count, by_seed = len(self.groups), (len(self.seeds), len(self.groups))
        fits = self.tokens.shape == (count,) and self.nats.shape == by_seed and self.correct.shape == by_seed
        if not fits or not count or not self.seeds or (self.tokens < 1).any():
            raise ValueError(
                f"{self.row}: {len(self.seeds)} seeds and {count} groups do not fit tokens {self.tokens.shape}, "
                f"nats {self.nats.shape}, correct {self.correct.shape}; each group needs at least 1 token"
            )
        if self.position_nats.ndim != 1 or self.position_nats.shape != self.position_tokens.shape:
            raise ValueError(
                f"{self.row}: position_nats {self.position_nats.shape}, position_tokens {self.position_tokens.shape}"
            )

    @property
    def is_ngram(self) -> bool:
        """Whether this is an n-gram baseline, counted instead of trained."""
        return self.learning_rate is None


@dataclass(frozen=True)
class Scores:
    """Sums over each recording (`tokens`, `nats`, `correct` top-1 predictions, `[N]`) and each position in a window
    (`[C]`), nats over all codebooks; nats of each codebook; the model's `parameters`, which for an n-gram model are the
    n-grams that it keeps."""

    parameters: int
    recordings: list[str]
    tokens: list[int]
    nats: list[float]
    correct: list[int]
    position_nats: list[float]
    position_tokens: list[int]
    codebook_nats: list[float]


def scores_file(trial: Trial, dataset: Location) -> Path:
    """Return the file with a trial's scores on the test split of `dataset`."""
    return trial.folder / (_SCORES_FILE if dataset == trial.datasets[0] else f"test-{dataset.name}.json")


_SCORES_FILE = "test.json"


def score_trial(trial: Trial, budget: Budget, dataset: Location) -> None:
    """Score a trained trial on the test split of `dataset`, always in fp32. Runs in a separate process."""
    torch.set_num_threads(budget.threads)
    device = single_process(budget.device).device
    model = load_model(trial.folder).to(device)
    scores = model_scores(model, windows(trial, budget, dataset, "test", device))
    _publish(scores_file(trial, dataset), _add_up(scores, dataset, budget.context, model.parameter_count()))


def score_ngrams(dataset: Location, folders: dict[str, Path], budget: Budget) -> None:
    """Count n-grams on the training split, score each baseline on the test split, and save the scores in its folder."""
    counts = count_training(dataset, budget.context)
    for name, folder in folders.items():
        ngram, scores = score_ngram(counts, name, dataset, "test", budget.context)
        _publish(ngram_scores_file(folder), _add_up(scores, dataset, budget.context, ngram.parameter_count()))


def ngram_scores_file(folder: Path) -> Path:
    """Return the file with an n-gram baseline's scores."""
    return folder / _SCORES_FILE


def require_scores(path: Path) -> Scores:
    """Read the scores in a file. Raises `JobError` if there are none yet, or if they are invalid."""
    if not path.is_file():
        raise JobError(f"{path.parent}: not scored yet; rerun to resume")
    try:
        return Scores(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise JobError(f"{path}: not scores of this version of whisper-gpt ({error}); use another --out") from error


def groups_of(dataset: Location) -> dict[str, str]:
    """Return the group of each recording in the test split: its speaker, or itself if that is unknown."""
    samples = read_samples(dataset, "test", ["source", "corpus", "speaker"]).to_pylist()
    return {s["source"]: f"{s['corpus']} {s['speaker']}" if s["speaker"] else s["source"] for s in samples}


def _publish(path: Path, scores: Scores) -> None:
    publish_bytes(path, (json.dumps(asdict(scores)) + "\n").encode())


def _add_up(scores: Iterable[WindowScore], dataset: Location, context: int, parameters: int) -> Scores:
    samples = read_samples(dataset, "test", ["key", "source"])
    recording_of = dict(zip(samples["key"].to_pylist(), samples["source"].to_pylist(), strict=True))
    tokens, correct = dict.fromkeys(recording_of.values(), 0), dict.fromkeys(recording_of.values(), 0)
    nats = dict.fromkeys(recording_of.values(), 0.0)
    position_nats, position_tokens = np.zeros(context), np.zeros(context, np.int64)
    codebook_nats = np.zeros(1)  # broadcast to the number of codebooks
    for score in scores:
        recording, frames = recording_of[score.key], len(score.nats)
        codebook_nats = codebook_nats + score.nats.sum(axis=0)
        tokens[recording] += frames
        nats[recording] += float(score.nats.sum())
        correct[recording] += int(score.correct.sum())
        position_nats[:frames] += score.nats.sum(axis=1)
        position_tokens[:frames] += 1
    names = sorted(tokens)
    by_recording = [tokens[name] for name in names], [nats[name] for name in names], [correct[name] for name in names]
    by_position = position_nats.tolist(), position_tokens.tolist()
    return Scores(parameters, names, *by_recording, *by_position, codebook_nats.tolist())


def row_results(domain: Domain, search: Search, results: Path) -> list[RowResult]:
    """Return the results of the n-gram baselines and all rows of a domain, which must all be done. Raises `JobError` if
    their tokens differ, as when the dataset was made again in between."""
    (test,) = domain.scored
    groups = groups_of(test)
    ngrams = ngram_folders(results, domain)
    rows = [_ngram_result(name, folder, domain, groups) for name, folder in ngrams.items()]
    rows += [row_result(domain, row, search, results, test, groups) for row in domain.rows]
    for row in rows[1:]:
        if not np.array_equal(row.tokens, rows[0].tokens):
            names = f"{row.row} and {rows[0].row}"
            raise JobError(f"{results}: {names} were scored on different tokens of {domain.name}; pass another --out")
    return rows


def count_no_longer_chosen(domain: Domain, search: Search, results: Path) -> int:
    """Count the models of a domain that were scored on the test split at a rate that is no longer chosen."""
    chosen = {trial.folder for row in domain.rows for trial in chosen_trials(results, domain, row, search)}
    return sum(
        (path.parent / _SCORES_FILE).is_file()
        for row in domain.rows
        for path in (results / "trials" / domain.name / row.name).glob("*/trial.json")
        if path.parent not in chosen
    )


def at_edges(rows_by_domain: Mapping[str, Sequence[RowResult]], search: Search) -> list[str]:
    """Return a note on rows that chose the lowest or highest rate, as a rate beyond it might be better."""
    edges = {min(search.learning_rates), max(search.learning_rates)}
    at_edge = [
        f"{row.row} ({name}, {row.learning_rate:g})"
        for name, rows in rows_by_domain.items()
        for row in rows
        if row.learning_rate in edges
    ]
    return (
        [f"At an edge of the rates that were tried, perhaps better beyond it: {', '.join(at_edge)}."] if at_edge else []
    )


def row_result(
    domain: Domain, row: Row, search: Search, results: Path, test: Location, groups: dict[str, str]
) -> RowResult:
    """Return the result of a trained row of a domain on the test split of `test`, whose recordings are in `groups`."""
    trials = chosen_trials(results, domain, row, search)
    trained = [require_trained(trial) for trial in trials]
    scores = [require_scores(scores_file(trial, test)) for trial in trials]
    return RowResult(
        row=row.name,
        tag=row.tag,
        description=row.description,
        parameters=trained[0].parameters,
        flops_per_token=trained[0].flops_per_token,
        learning_rate=trials[0].learning_rate,
        tokens_trained=trained[0].tokens,
        wall_s=sum(trial.wall_s for trial in trained) / len(trained),
        seeds=tuple(trial.seed for trial in trials),
        curves=tuple(tuple(trial.curve) for trial in trained),
        **_sums(scores, groups),
    )


def _ngram_result(name: str, folder: Path, domain: Domain, groups: dict[str, str]) -> RowResult:
    scores = require_scores(ngram_scores_file(folder))
    return RowResult(
        row=name,
        tag="baseline",
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
    """Sum scores by group of recordings and seed. Raises `JobError` if the recordings are not those of `groups`."""
    recordings = scores[0].recordings
    if any(set(seed.recordings) != set(groups) or seed.recordings != recordings for seed in scores):
        raise JobError("trials were scored on other recordings than the dataset has; pass another --out")
    names, group_of = np.unique([groups[recording] for recording in recordings], return_inverse=True)

    def by_group(values: Sequence[float]) -> np.ndarray:
        return np.bincount(group_of, weights=values)  # exact for counts, which are integers in float64

    return {
        "groups": tuple(names.tolist()),
        "recordings": len(recordings),
        "tokens": by_group(scores[0].tokens).astype(np.int64),
        "nats": np.array([by_group(seed.nats) for seed in scores]),
        "correct": np.array([by_group(seed.correct) for seed in scores]).astype(np.int64),
        "position_nats": np.sum([seed.position_nats for seed in scores], axis=0),
        "position_tokens": np.sum([seed.position_tokens for seed in scores], axis=0),
        "codebook_nll": tuple(np.mean([seed.codebook_nats for seed in scores], axis=0) / np.sum(scores[0].tokens)),
    }
