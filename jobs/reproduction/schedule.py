"""Run the trials of a table in phases: every learning rate with one seed, the best one with the other seeds, the test.

Each trial is a Ray task, or a call in this process without Ray; finished ones stay in the results folder, so that a
rerun resumes. With a budget in minutes, timing a few steps of each row determines the tokens per trial.
"""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.ray_cluster import first_ready
from whisper_gpt.jobs.common.signals import stop_signals
from whisper_gpt.jobs.reproduction.plan import Domain, Search, chosen_trials, ngram_folders, trial_of
from whisper_gpt.jobs.reproduction.results import ngram_scores_file, score_ngrams, score_trial, scores_file
from whisper_gpt.jobs.reproduction.rows import Row
from whisper_gpt.jobs.reproduction.trials import (
    EVALUATIONS,
    Budget,
    Trial,
    append_log,
    read_trained,
    require_trained,
    train_trial,
    training_config,
)
from whisper_gpt.jobs.training.distributed import single_process
from whisper_gpt.jobs.training.loop import take_step
from whisper_gpt.jobs.training.monitor import Clock
from whisper_gpt.jobs.training.session import open_session
from whisper_gpt.manifests.location import Location
from whisper_gpt.model.config import PRESETS

_WARM_UP, _TIMED = 2, 4
# Scoring a token costs a forward pass, but no backward pass.
_SCORING_SHARE = 1 / 3
# The rest goes to starting processes, writing checkpoints, and workers that are idle at the end of a phase.
_USED_SHARE = 0.85


@dataclass(frozen=True)
class Cost:
    """Cost of a trial in seconds: `start_s` (mostly compilation), and `token_s` per training token."""

    start_s: float
    token_s: float


def time_trial(trial: Trial, budget: Budget) -> Cost:
    """Time a few steps of a trial, without writing anything. With Ray it runs in a separate process."""
    torch.set_num_threads(budget.threads)
    config = training_config(trial, budget)
    begun = time.monotonic()
    session = open_session(config, single_process(budget.device), False, lambda text: None)
    try:
        for number in range(1, _WARM_UP + 1):
            take_step(session, number, Clock(0.0)).pending.wait()
        warm = time.monotonic()
        for number in range(_WARM_UP + 1, _WARM_UP + _TIMED + 1):
            take_step(session, number, Clock(0.0)).pending.wait()
        return Cost(warm - begun, (time.monotonic() - warm) / (_TIMED * budget.batch * budget.context))
    finally:
        session.close()


def affordable_tokens(seconds: float, trials: Sequence[Cost], scored: Sequence[int], workers: int, phases: int) -> int:
    """Return the training tokens per trial with which all `trials` finish in `seconds` on `workers` parallel workers.

    `scored` are the tokens that each trial is scored on, while training and at its end. The slowest trial must also fit
    into each of the `phases`. 0 or less if the time is too short.
    """
    fixed_costs = [
        cost.start_s + cost.token_s * _SCORING_SHARE * tokens for cost, tokens in zip(trials, scored, strict=True)
    ]
    by_total = (seconds * _USED_SHARE * workers - sum(fixed_costs)) / sum(cost.token_s for cost in trials)
    by_phase = min(
        (seconds * _USED_SHARE / phases - fixed) / cost.token_s for cost, fixed in zip(trials, fixed_costs, strict=True)
    )
    return int(min(by_total, by_phase))


_RETRIES = 3  # of a task whose worker died; its run resumes from its checkpoint

Log = Callable[[str], None]


def run_all(domains: Sequence[Domain], search: Search, budget: Budget, results: Path, with_ray: bool, log: Log) -> None:
    """Run all trials that are not done yet, and score the chosen ones. Raises `JobError` if one fails."""
    first, needs = search.seeds[0], _needs(budget)
    outcomes = _in_ray if with_ray else _in_this_process
    tried = [trial_of(results, *row, rate, first) for row in _rows(domains) for rate in search.learning_rates]
    grid = [*_ngram_scoring(domains, budget, results), *_training(tried, budget)]
    _do("n-gram baselines, and every learning rate with the first seed", grid, outcomes, log)
    chosen = {trial: domain for domain, row in _rows(domains) for trial in chosen_trials(results, domain, row, search)}
    _do("best learning rate with the other seeds", _training(chosen, budget), outcomes, log)
    for trial in chosen:
        if require_trained(trial).nats is None:
            raise JobError(f"{trial.folder}: diverged with this seed; remove this rate from --learning-rates")
    unscored = {
        trial: [dataset for dataset in domain.scored if not scores_file(trial, dataset).is_file()]
        for trial, domain in chosen.items()
    }
    scoring = [
        _Work(_score, (trial, budget, datasets), trial.folder, needs)
        for trial, datasets in unscored.items()
        if datasets
    ]
    _do("scoring the test split", scoring, outcomes, log)


def afford(
    domains: Sequence[Domain], search: Search, budget: Budget, minutes: float, workers: int, results: Path
) -> int:
    """Return the tokens per trial with which all trials finish in `minutes` on `workers` parallel workers.

    With 0 workers the trials run in this process. Raises `JobError` if the time is too short.
    """
    rows = _rows(domains)
    trials = [trial_of(results, *row, 1e-3, 0) for row in rows]
    if workers:
        timed = ray.get([_call.options(**_needs(budget)).remote(time_trial, (trial, budget)) for trial in trials])
    else:
        timed = [time_trial(trial, budget) for trial in trials]
    trials_per_row = len(search.learning_rates) + len(search.seeds) - 1
    costs = [cost for cost in timed for _ in range(trials_per_row)]
    evaluated = EVALUATIONS * budget.evaluated_windows * budget.context
    scored = [domain.scored_frames + evaluated for domain, _ in rows for _ in range(trials_per_row)]
    phases = 1 + (len(search.seeds) > 1)
    tokens = affordable_tokens(60 * minutes, costs, scored, max(1, workers), phases)
    if tokens < budget.context * budget.batch:
        raise JobError(f"--budget {minutes:g}: {len(costs)} trials take longer just to start and to be scored")
    return tokens


def _rows(domains: Sequence[Domain]) -> list[tuple[Domain, Row]]:
    return [(domain, row) for domain in domains for row in domain.rows]


class _Work(NamedTuple):
    """A call, the folder whose `log.txt` records its failure, and the resources that it takes in Ray."""

    function: Callable[..., str]
    arguments: tuple[Any, ...]
    folder: Path
    needs: dict[str, int]


def _training(trials: Iterable[Trial], budget: Budget) -> list[_Work]:
    """Return the untrained trials, the costliest first, so that none of them is left for the end."""
    left = [trial for trial in trials if read_trained(trial) is None]
    left.sort(key=_cost, reverse=True)
    return [_Work(_train, (trial, budget), trial.folder, _needs(budget)) for trial in left]


def _cost(trial: Trial) -> float:
    """Return about what a trial costs, relative to others of its budget."""
    preset = PRESETS[trial.row.model]
    return trial.row.positions_per_frame * preset.layers * preset.width**2 / trial.divisor


def _ngram_scoring(domains: Sequence[Domain], budget: Budget, results: Path) -> list[_Work]:
    """Return the scoring of missing n-gram baselines: NumPy on one core, whatever the trials run on."""
    work = []
    for domain in domains:
        folders = ngram_folders(results, domain)
        if not all(ngram_scores_file(folder).is_file() for folder in folders.values()):
            arguments = domain.dataset, folders, budget
            work.append(_Work(_count_and_score, arguments, results / "trials" / domain.name, {"num_cpus": 1}))
    return work


class _Outcome(NamedTuple):
    """How a call ended: the folder of its `log.txt`, one line, and whether it failed."""

    folder: Path
    text: str
    failed: bool = False


def _do(what: str, work: Sequence[_Work], outcomes: Callable[[Sequence[_Work]], Iterator[_Outcome]], log: Log) -> None:
    """Run calls with `_in_ray` or `_in_this_process`. Raises `JobError` after all have ended if any failed."""
    if not work:
        return
    log(f"{what}: {len(work)} to do")
    failures = []
    for done, outcome in enumerate(outcomes(work), 1):
        log(f"{done} of {len(work)} · {outcome.folder}: {outcome.text}")
        if outcome.failed:
            failures.append(f"{outcome.folder}: {outcome.text}")
    if failures:
        raise JobError(f"{len(failures)} of {len(work)} failed; rerun to retry them: {'; '.join(failures)}")


def _in_ray(work: Sequence[_Work]) -> Iterator[_Outcome]:
    """Run calls in parallel, as many as Ray has room for; yield their outcomes as they end."""
    running = {
        _call.options(**call.needs, max_retries=_RETRIES).remote(call.function, call.arguments): call.folder
        for call in work
    }
    with stop_signals() as stopped:
        while running:
            done = first_ready(running, stopped)
            folder = running.pop(done)
            try:
                yield _Outcome(folder, ray.get(done))
            except ray.exceptions.RayTaskError as error:
                yield _failed(folder, error.cause, f"{error}\n")  # with its traceback
            except ray.exceptions.RayError as error:
                yield _Outcome(folder, f"{type(error).__name__}, {_RETRIES + 1} times", failed=True)


def _in_this_process(work: Sequence[_Work]) -> Iterator[_Outcome]:
    """Run calls in sequence; yield their outcomes."""
    for call in work:
        try:
            yield _Outcome(call.folder, call.function(*call.arguments))
        except Exception as error:
            yield _failed(call.folder, error, traceback.format_exc())


def _failed(folder: Path, cause: Exception, trace: str) -> _Outcome:
    append_log(folder, trace)
    return _Outcome(folder, f"{type(cause).__name__}: {cause} (more in its log.txt)", failed=True)


def _needs(budget: Budget) -> dict[str, int]:
    """Return the resources of a trial in Ray."""
    return {"num_cpus": budget.threads} | ({"num_gpus": 1} if budget.device == "cuda" else {})


@ray.remote(max_calls=1)
def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _train(trial: Trial, budget: Budget) -> str:
    trained = train_trial(trial, budget)
    if trained.nats is None:
        return "diverged"
    return f"{trained.nats:.3f} nats per frame on the validation split, {trained.wall_s / 60:.1f} min"


def _score(trial: Trial, budget: Budget, datasets: Sequence[Location]) -> str:
    for dataset in datasets:
        score_trial(trial, budget, dataset)
    return f"scored on {', '.join(dataset.name for dataset in datasets)}"


def _count_and_score(dataset: Location, folders: dict[str, Path], budget: Budget) -> str:
    score_ngrams(dataset, folders, budget)
    return f"{', '.join(folders)} scored"
