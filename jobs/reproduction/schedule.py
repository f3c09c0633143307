"""Run the trials of a table in phases: every learning rate with one seed, the best one with the other seeds, the test.

Each trial is a Ray task, or a call in this process without Ray; finished ones stay in the results folder, so that a
rerun resumes. With a budget in minutes a few timed steps of each row decide how many tokens a trial gets.
"""

import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from upath import UPath

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.ray_cluster import first_ready
from whisper_gpt.jobs.common.signals import stop_signals
from whisper_gpt.jobs.reproduction.plan import Domain, Search, chosen_trials, ngram_folders, trial_of
from whisper_gpt.jobs.reproduction.results import read_scores, score_ngrams, score_trial
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
from whisper_gpt.model.config import PRESETS

_WARM_UP, _TIMED = 2, 4
# A token that is only scored is passed forward, not back.
_SCORING_SHARE = 1 / 3
# Starting processes, writing checkpoints, workers that are idle at the end of a phase.
_USED = 0.85


@dataclass(frozen=True)
class Cost:
    """Seconds of a trial: `start_s` (most of it compilation) and `token_s` for each token that is trained on."""

    start_s: float
    token_s: float


def time_trial(trial: Trial, budget: Budget) -> Cost:
    """Take a few steps of a trial, and leave nothing behind. In a process of its own."""
    torch.set_num_threads(budget.threads)
    config = training_config(trial, budget)
    begun = time.monotonic()
    session = open_session(config, single_process(budget.device), False, lambda text: None)
    try:
        for _ in range(_WARM_UP):
            take_step(session, config.learning_rate, Clock(0.0))
        warm = time.monotonic()
        for _ in range(_TIMED):
            take_step(session, config.learning_rate, Clock(0.0))
        return Cost(warm - begun, (time.monotonic() - warm) / (_TIMED * budget.batch * budget.context))
    finally:
        session.close()


def affordable_tokens(seconds: float, trials: Sequence[Cost], scored: Sequence[int], workers: int, phases: int) -> int:
    """How many tokens each of `trials` may be trained on for all to be done in `seconds` on `workers` side by side.

    `scored` are the tokens that each is scored on, on the way and at its end. In each of the `phases` the slowest one
    must find the time, too. 0 or less where the time is too short.
    """
    besides = [
        cost.start_s + cost.token_s * _SCORING_SHARE * tokens for cost, tokens in zip(trials, scored, strict=True)
    ]
    in_all = (seconds * _USED * workers - sum(besides)) / sum(cost.token_s for cost in trials)
    in_turn = min(
        (seconds * _USED / phases - fixed) / cost.token_s for cost, fixed in zip(trials, besides, strict=True)
    )
    return int(min(in_all, in_turn))


_RETRIES = 3  # of a task whose worker died; its run goes on from its checkpoint

Say = Callable[[str], None]


def run_all(domains: Sequence[Domain], search: Search, budget: Budget, results: Path, with_ray: bool, say: Say) -> None:
    """Do all trials that are not done yet, and score the chosen ones. Raises `JobError` if one fails."""
    first, needs = search.seeds[0], _needs(budget)
    do = _do if with_ray else _do_here
    tried = [trial_of(results, *row, rate, first) for row in _rows(domains) for rate in search.learning_rates]
    grid = [*_floor_scoring(domains, budget, results), *_training(tried, budget)]
    do("the floors, and every rate from the first seed", grid, say)
    chosen = [trial for domain, row in _rows(domains) for trial in chosen_trials(results, domain, row, search)]
    do("the best rate from the other seeds", _training(chosen, budget), say)
    for trial in chosen:
        if require_trained(trial).nats is None:
            raise JobError(f"{trial.folder}: diverged from this seed; leave this rate out of --learning-rates")
    left = [trial for trial in chosen if read_scores(trial.folder) is None]
    do("the test split", [_Work(_score, (trial, budget), trial.folder, needs) for trial in left], say)


def afford(
    domains: Sequence[Domain], search: Search, budget: Budget, minutes: float, workers: int, results: Path
) -> int:
    """Return how many tokens each trial may have for all to be done in `minutes` on `workers` side by side.

    With 0 workers the trials run in this process. Raises `JobError` if it is none.
    """
    rows = _rows(domains)
    trials = [trial_of(results, *row, 1e-3, 0) for row in rows]
    if workers:
        timed = ray.get([_call.options(**_needs(budget)).remote(time_trial, (trial, budget)) for trial in trials])
    else:
        timed = [time_trial(trial, budget) for trial in trials]
    times = len(search.learning_rates) + len(search.seeds) - 1
    costs = [cost for cost in timed for _ in range(times)]
    on_the_way = EVALUATIONS * budget.evaluated_windows * budget.context
    scored = [domain.scored_frames + on_the_way for domain, _ in rows for _ in range(times)]
    phases = 1 + (len(search.seeds) > 1)
    tokens = affordable_tokens(60 * minutes, costs, scored, max(1, workers), phases)
    if tokens < budget.context * budget.batch:
        raise JobError(f"--budget {minutes:g}: {len(costs)} trials take longer only to start and to be scored")
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
    """Those that are not trained yet, the costliest first, so that no worker is left with one at the end."""
    left = [trial for trial in trials if read_trained(trial) is None]
    left.sort(key=lambda trial: -PRESETS[trial.row.model].layers * PRESETS[trial.row.model].width)
    return [_Work(_train, (trial, budget), trial.folder, _needs(budget)) for trial in left]


def _floor_scoring(domains: Sequence[Domain], budget: Budget, results: Path) -> list[_Work]:
    """The floors of those domains that have not all of them yet: NumPy on one core, whatever the trials run on."""
    work = []
    for domain in domains:
        folders = ngram_folders(results, domain)
        if any(read_scores(folder) is None for folder in folders.values()):
            arguments = domain.dataset, folders, budget
            work.append(_Work(_count_and_score, arguments, results / "trials" / domain.name, {"num_cpus": 1}))
    return work


def _do(what: str, work: Sequence[_Work], say: Say) -> None:
    """Run tasks side by side, as many as Ray has room for. Raises `JobError`, once all have ended, if any failed."""
    if not work:
        return
    say(f"{what}: {len(work)} to do")
    running = {
        _call.options(**call.needs, max_retries=_RETRIES).remote(call.function, call.arguments): call.folder
        for call in work
    }
    total, failures = len(running), []
    with stop_signals() as stopped:
        while running:
            done = first_ready(running, stopped)
            folder = running.pop(done)
            try:
                outcome = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                append_log(folder, f"{error}\n")  # with the lines of code that it passed
                outcome = f"{type(error.cause).__name__}: {error.cause} (more in its log.txt)"
                failures.append(f"{folder}: {outcome}")
            except ray.exceptions.RayError as error:
                outcome = f"{type(error).__name__}, {_RETRIES + 1} times"
                failures.append(f"{folder}: {outcome}")
            say(f"{total - len(running)} of {total} · {folder}: {outcome}")
    if failures:
        raise JobError(f"{len(failures)} of {total} failed; rerun to try them again: {'; '.join(failures)}")


def _do_here(what: str, work: Sequence[_Work], say: Say) -> None:
    """Run calls one after another in this process. Raises `JobError`, once all have ended, if any failed."""
    if not work:
        return
    say(f"{what}: {len(work)} to do")
    failures = []
    for done, call in enumerate(work, 1):
        try:
            outcome = call.function(*call.arguments)
        except Exception as error:
            append_log(call.folder, traceback.format_exc())
            outcome = f"{type(error).__name__}: {error} (more in its log.txt)"
            failures.append(f"{call.folder}: {outcome}")
        say(f"{done} of {len(work)} · {call.folder}: {outcome}")
    if failures:
        raise JobError(f"{len(failures)} of {len(work)} failed; rerun to try them again: {'; '.join(failures)}")


def _needs(budget: Budget) -> dict[str, int]:
    """What Ray is to keep for a trial."""
    return {"num_cpus": budget.threads} | ({"num_gpus": 1} if budget.device == "cuda" else {})


@ray.remote(max_calls=1)
def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    return function(*arguments)


def _train(trial: Trial, budget: Budget) -> str:
    found = train_trial(trial, budget)
    if found.nats is None:
        return "diverged"
    return f"{found.nats:.3f} nats on the validation split, {found.wall_s / 60:.1f} min"


def _score(trial: Trial, budget: Budget) -> str:
    score_trial(trial, budget)
    return "scored"


def _count_and_score(dataset: UPath, folders: dict[str, Path], budget: Budget) -> str:
    score_ngrams(dataset, folders, budget)
    return f"{', '.join(folders)} scored"
