"""All trials of a table, in phases: every learning rate from one seed, the best one from the other seeds, the test.

Each trial is a Ray task; what is done lies in the results' folder, so that a rerun goes on where another ended.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray
from upath import UPath

from jobs.errors import JobError
from jobs.floors import FLOORS
from jobs.reproduction.estimate import Cost, affordable_tokens, time_trial
from jobs.reproduction.results import RowResult
from jobs.reproduction.rows import Row
from jobs.reproduction.scores import Scores, read_scores, require_scores, score_floors, score_trial
from jobs.reproduction.trials import Budget, Trial, read_trained, require_trained, train_trial
from manifests.dataset_info import DatasetInfo
from model.config import PRESETS

_RETRIES = 3  # of a task whose worker died; its run goes on from its checkpoint

Say = Callable[[str], None]


@dataclass(frozen=True)
class Domain:
    """A dataset and the rows that are trained on it."""

    dataset: UPath
    info: DatasetInfo
    rows: list[Row]

    @property
    def name(self) -> str:
        """That of the dataset's folder."""
        return self.dataset.name

    @property
    def scored_frames(self) -> int:
        """Those of the two splits that are scored."""
        return self.info.splits["validation"].frames + self.info.splits["test"].frames


@dataclass(frozen=True)
class Search:
    """What each row gets: the same rates to choose from on the validation split, by the first seed, and the seeds."""

    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]


def run_all(domains: Sequence[Domain], search: Search, budget: Budget, results: Path, say: Say) -> None:
    """Do all trials that are not done yet, and score the chosen ones. Raises `JobError` where one fails."""
    first = search.seeds[0]
    tried = [_trial(results, *row, rate, first) for row in _rows(domains) for rate in search.learning_rates]
    _train(tried, budget, say)
    chosen = [trial for domain, row in _rows(domains) for trial in _chosen(results, domain, row, search)]
    _train(chosen, budget, say)
    for trial in chosen:
        if require_trained(trial).nats is None:
            raise JobError(f"{trial.folder}: diverged from this seed; give lower --learning-rates, and another --out")
    work: list[_Work] = [
        (_score_trial, (trial, budget), trial.folder) for trial in chosen if read_scores(trial.folder) is None
    ]
    for domain in domains:
        folders = {name: _floor_folder(results, domain, name) for name in FLOORS}
        if any(read_scores(folder) is None for folder in folders.values()):
            work.append((_score_floors, (domain.dataset, folders, budget), results / "trials" / domain.name))
    _do(work, budget, say)


def afford(
    domains: Sequence[Domain], search: Search, budget: Budget, minutes: float, workers: int, results: Path
) -> int:
    """How many tokens each trial may have for all to be done in `minutes`. Raises `JobError` where it is none."""
    rows = _rows(domains)
    need = _need(budget)
    timed = [_time_trial.options(**need).remote(_trial(results, *row, 1e-3, 0), budget) for row in rows]
    times = len(search.learning_rates) + len(search.seeds) - 1
    costs = [cost for cost in ray.get(timed) for _ in range(times)]
    scored = [domain.scored_frames for domain, _ in rows for _ in range(times)]
    phases = 1 + (len(search.seeds) > 1)
    tokens = affordable_tokens(60 * minutes, costs, scored, budget.context, workers, phases)
    if tokens < budget.context * budget.batch:
        raise JobError(f"--budget {minutes:g}: {len(costs)} trials take longer only to start and to be scored")
    return tokens


def row_results(domain: Domain, search: Search, results: Path) -> list[RowResult]:
    """The results of the floors and all rows of a domain, once all is done. Raises `JobError` where they are of other
    tokens, as when the dataset was made anew meanwhile."""
    found = [_floor_result(name, _floor_folder(results, domain, name)) for name in FLOORS]
    found += [_row_result(row, _chosen(results, domain, row, search)) for row in domain.rows]
    for row in found[1:]:
        if row.recordings != found[0].recordings or not np.array_equal(row.tokens, found[0].tokens):
            rows = f"{row.row} and {found[0].row}"
            raise JobError(f"{results}: {rows} were scored on other tokens of {domain.name}; use another --out")
    return found


def _rows(domains: Sequence[Domain]) -> list[tuple[Domain, Row]]:
    return [(domain, row) for domain in domains for row in domain.rows]


_Work = tuple[Any, tuple[Any, ...], Path]


def _train(trials: Iterable[Trial], budget: Budget, say: Say) -> None:
    """Train those that are not trained yet, the costliest first, so that no worker is left with one at the end."""
    left = [trial for trial in trials if read_trained(trial) is None]
    left.sort(key=lambda trial: -PRESETS[trial.row.model].layers * PRESETS[trial.row.model].width)
    _do([(_train_trial, (trial, budget), trial.folder) for trial in left], budget, say)


def _do(work: Sequence[_Work], budget: Budget, say: Say) -> None:
    """Run tasks side by side, as many as Ray has room for. Raises `JobError` for the first that fails."""
    options = _need(budget) | {"max_retries": _RETRIES}
    running = {task.options(**options).remote(*arguments): name for task, arguments, name in work}
    total = len(running)
    while running:
        (done,), _ = ray.wait(list(running), num_returns=1)
        name = running.pop(done)
        try:
            outcome = ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise JobError(f"{name}: {type(error.cause).__name__}: {error.cause}") from error
        except ray.exceptions.RayError as error:
            raise JobError(f"{name}: {type(error).__name__}, {_RETRIES + 1} times; rerun to go on") from error
        say(f"{total - len(running)} of {total} · {name}: {outcome}")


def _need(budget: Budget) -> dict[str, int]:
    """What Ray is to keep for a trial."""
    return {"num_cpus": budget.threads} | ({"num_gpus": 1} if budget.device == "cuda" else {})


@ray.remote(max_calls=1)
def _time_trial(trial: Trial, budget: Budget) -> Cost:
    return time_trial(trial, budget)


@ray.remote(max_calls=1)
def _train_trial(trial: Trial, budget: Budget) -> str:
    found = train_trial(trial, budget)
    if found.nats is None:
        return "diverged"
    return f"{found.nats:.3f} nats on the validation split, {found.wall_s / 60:.1f} min"


@ray.remote(max_calls=1)
def _score_trial(trial: Trial, budget: Budget) -> str:
    score_trial(trial, budget)
    return "scored"


@ray.remote(max_calls=1)
def _score_floors(dataset: UPath, folders: dict[str, Path], budget: Budget) -> str:
    score_floors(dataset, folders, budget)
    return f"{', '.join(folders)} scored"


def _trial(results: Path, domain: Domain, row: Row, rate: float, seed: int) -> Trial:
    folder = results / "trials" / domain.name / row.name / f"rate-{rate}-seed-{seed}"
    return Trial(domain.dataset, row, rate, seed, folder)


def _chosen(results: Path, domain: Domain, row: Row, search: Search) -> list[Trial]:
    """The trials of all seeds at the rate that was best on the validation split with the first one."""
    tried = [_trial(results, domain, row, rate, search.seeds[0]) for rate in search.learning_rates]
    found = {trial: nats for trial in tried if (nats := require_trained(trial).nats) is not None}
    if not found:
        raise JobError(f"{row.name} on {domain.name}: diverged at every learning rate; give lower --learning-rates")
    best = min(found, key=lambda trial: found[trial])
    return [_trial(results, domain, row, best.learning_rate, seed) for seed in search.seeds]


def _floor_folder(results: Path, domain: Domain, name: str) -> Path:
    return results / "trials" / domain.name / name


def _row_result(row: Row, trials: Sequence[Trial]) -> RowResult:
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
        **_sums(scores),
    )


def _floor_result(name: str, folder: Path) -> RowResult:
    scores = require_scores(folder)
    return RowResult(
        row=name,
        tag="floor",
        description=f"{FLOORS[name]} tokens at a time, counted",
        parameters=scores.parameters,
        flops_per_token=0.0,
        learning_rate=None,
        tokens_trained=0,
        wall_s=0.0,
        seeds=(0,),
        curves=(),
        **_sums([scores]),
    )


def _sums(scores: Sequence[Scores]) -> dict[str, Any]:
    return {
        "recordings": tuple(scores[0].recordings),
        "tokens": np.array(scores[0].tokens, np.int64),
        "nats": np.array([one.nats for one in scores]),
        "hits": np.array([one.hits for one in scores], np.int64),
        "position_nats": np.sum([one.position_nats for one in scores], axis=0),
        "position_tokens": np.sum([one.position_tokens for one in scores], axis=0),
    }
