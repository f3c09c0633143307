"""How many tokens each trial may have for the whole table to be done in so many minutes: a few steps of each, timed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whisper_gpt.jobs.reproduction.trials import Budget, Trial, training_config
from whisper_gpt.jobs.training.distributed import alone
from whisper_gpt.jobs.training.loop import take_step
from whisper_gpt.jobs.training.monitor import Clock
from whisper_gpt.jobs.training.session import open_session

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
    session = open_session(config, alone(budget.device), False, lambda text: None)
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
