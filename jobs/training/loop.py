"""The training loop: batches, steps, checkpoints, evaluations."""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from whisper_gpt.jobs.common.errors import Diverged
from whisper_gpt.jobs.common.progress import share_done
from whisper_gpt.jobs.inference.run_folder import Best, TrainingState, checkpoints
from whisper_gpt.jobs.inference.scoring import Score, score_model
from whisper_gpt.jobs.training.checkpoints import save_checkpoint, update_state
from whisper_gpt.jobs.training.distributed import Ranks, autocast, seed_everything
from whisper_gpt.jobs.training.monitor import Clock, Monitor
from whisper_gpt.jobs.training.optimizers import learning_rate, set_learning_rate, update_average
from whisper_gpt.jobs.training.session import Session
from whisper_gpt.jobs.training.step import PendingResult, StepResult, train_step
from whisper_gpt.pipeline.loading.stream import Batch
from whisper_gpt.pipeline.loading.stream import batches as all_batches

MAX_BAD_STEPS = 5  # consecutive steps out of bounds, after which the run stops


@dataclass(frozen=True)
class Step:
    """A step that the device was given, and the state of the stream after it."""

    number: int
    rate: float
    batches: list[Batch]
    stream: dict[str, Any]
    damaged: dict[str, str]
    pending: PendingResult


@dataclass
class Streak:
    """Consecutive steps out of bounds since the last healthy step."""

    healthy: TrainingState  # after the last healthy step
    batches: list[Batch]  # of the last healthy step
    keys: list[list[str]] = field(default_factory=list)  # samples of each bad step


def train(session: Session, monitor: Monitor | None, stopped: Callable[[], bool]) -> bool:
    """Train until the run is done (True) or `stopped` is true on rank 0 (False); save a checkpoint in both cases.

    Every rank takes the same steps. On a GPU a step is launched before the result of the last one is read, so the GPU
    does not idle; `--minutes` then ends the run a step later. Raises `Diverged` after too many consecutive steps out of
    bounds.
    """
    config, ranks, clock = session.config, session.ranks, Clock(session.state.elapsed_s)
    if session.state.unscored:
        _evaluate(session, monitor, stopped)
        _update_state(session)
    stopping = session.state.unscored  # still unscored: the evaluation was interrupted again
    first = done = _done(session, session.state.step)
    streak = Streak(session.state, [])
    steps: deque[Step] = deque()  # those whose numbers are not read yet
    last = time.monotonic()  # when a step was read, or its evaluation had ended
    while done < 1 and not stopping:
        steps.append(take_step(session, session.state.step + len(steps) + 1, clock, stopped))
        number = steps[-1].number
        scheduled = session.validation is not None and number % config.eval_every == 0
        periodic = number % config.save_every == 0
        settle = scheduled or periodic or number == config.steps
        while steps and (settle or streak.keys or len(steps) > _steps_ahead(ranks)):
            step = steps.popleft()
            result = step.pending.wait()
            elapsed, stop = result.main_values
            _advance(session, monitor, streak, step, result, elapsed)
            done = _done(session, session.state.step)
            stopping = stopping or bool(stop)
            settle = settle or stopping or done >= 1
            seconds, last = time.monotonic() - last, time.monotonic()
            clock.stepping_s += seconds
            if monitor:
                eta_s = (elapsed - clock.before_s) * max(0.0, 1 - done) / max(done - first, 1e-9)
                monitor.step(step.number, result, step.rate, seconds, clock, eta_s)
        if not settle:
            continue
        due = session.validation is not None and (done >= 1 or scheduled)
        session.state = replace(session.state, unscored=due)
        saved = done >= 1 or stopping or (periodic and not streak.keys)
        if saved:  # before the evaluation, which may be interrupted or fail
            _save(session, session.state)
        if due:
            best = _evaluate(session, monitor, stopped)
            stopping = stopping or session.state.unscored
            if saved:
                _update_state(session)
            elif best or stopping:
                _save(session, session.state)
        last = time.monotonic()
    left_out = ranks.sum([len(session.damaged)])[0]
    if monitor:
        monitor.end(int(left_out), stopped)
    return done >= 1


def take_step(session: Session, number: int, clock: Clock, stopped: Callable[[], bool] = lambda: False) -> Step:
    """Read the batches of step `number` of the run, and give it to the device; its numbers may be pending.

    On every rank, `main_values` of its result are rank 0's elapsed seconds and whether it was stopped.
    """
    config = session.config
    seed_everything(config.seed, number, session.ranks.rank)  # 0 seeded the initial weights
    rate = learning_rate(config, _done(session, number - 1))
    set_learning_rate(session.optimizers, rate)
    started = time.monotonic()
    batches = [next(session.training) for _ in range(config.accumulate)]
    clock.waiting_s += time.monotonic() - started
    pending = _take(session, batches, session.optimizers, lambda: (clock.elapsed_s, float(stopped())))
    if session.average is not None:
        decay = config.ema if number > 1 else 0.0
        update_average(session.average, session.model, decay, pending.healthy)
    return Step(number, rate, batches, session.training.state_dict(), dict(session.training.damaged), pending)


def _take(
    session: Session,
    batches: Sequence[Batch],
    optimizers: Sequence[torch.optim.Optimizer],
    main_values: Callable[[], Sequence[float]] = tuple,
) -> PendingResult:
    config = session.config
    return train_step(
        session.objective,
        optimizers,
        batches,
        session.ranks,
        clip=config.clip,
        max_nats=session.max_nats,
        precision=session.precision,
        codebooks=max(session.model.config.input_codebooks, session.model.config.output_codebooks),
        main_values=main_values,
    )


def _advance(
    session: Session, monitor: Monitor | None, streak: Streak, step: Step, result: StepResult, elapsed_s: float
) -> None:
    """Bring the state of the session, and the streak of bad steps, to that after `step`."""
    session.state = replace(
        session.state,
        step=step.number,
        elapsed_s=elapsed_s,
        stream=step.stream,
        skipped=session.state.skipped + (not result.healthy),
        damaged=step.damaged,
    )
    if result.healthy:
        streak.healthy, streak.batches, streak.keys = session.state, step.batches, []
    else:
        _answer_bad_step(session, monitor, streak, step.batches, result)


def _steps_ahead(ranks: Ranks) -> int:
    """Return how many steps may be with the device while their numbers are unread."""
    return 1 if ranks.device.type == "cuda" else 0


def _done(session: Session, step: int) -> float:
    """Return the share of the run that is done after `step`."""
    config = session.config
    return share_done(step, config.steps, session.state.elapsed_s, config.minutes)


def _evaluate(session: Session, monitor: Monitor | None, stopped: Callable[[], bool]) -> bool:
    """Score the validation split, each rank its share; return whether the score is the best so far.

    A stop signal interrupts it, so that the checkpoint is written within seconds; a resumed run begins with it.
    """
    assert session.validation is not None
    config, ranks = session.config, session.ranks
    windows = itertools.islice(all_batches(session.validation), config.eval_batches)
    until_stopped = (batch.to(ranks.device) for batch in itertools.takewhile(lambda _: not stopped(), windows))
    with autocast(session.precision, ranks.device):
        share = score_model(session.scored_model, until_stopped)
    finer_nats = share.finer_nats or (0.0,) * (session.model.config.output_codebooks - 1)  # a rank may have no windows
    *finer, nats, correct, tokens, interrupted = ranks.sum(
        [*finer_nats, share.nats, share.correct, share.tokens, float(stopped())]
    )
    session.state = replace(session.state, unscored=bool(interrupted))
    if interrupted:
        return False
    if not tokens:
        if monitor:
            monitor.log(f"step {session.state.step}: not scored, as no validation sample can be read")
        return False
    score = Score(nats, int(correct), int(tokens), tuple(finer))
    if monitor:
        monitor.evaluation(session.state.step, score, stopped)
    before = session.state.best
    frame_nats = sum(score.codebook_nll)
    if math.isnan(frame_nats) or (before is not None and before.nats <= frame_nats):
        return False
    session.state = replace(session.state, best=Best(session.state.step, frame_nats))
    return True


def _answer_bad_step(
    session: Session, monitor: Monitor | None, streak: Streak, batches: list[Batch], result: StepResult
) -> None:
    """Log that a step was skipped; raise `Diverged` after too many consecutive ones.

    Then the current weights, from before the bad steps, are saved if they are still healthy on the batches of the last
    healthy step. Otherwise that step's update broke them, and only the newest checkpoint remains.
    """
    config, ranks = session.config, session.ranks
    streak.keys.append(sorted({key for batch in batches for keys in batch.keys for key in keys}))
    numbers = f"{result.token_nats:.3g} nats per token, gradient norm {result.gradient_norm:.3g}"
    if monitor:
        monitor.log(f"step {session.state.step} skipped: {numbers}, out of bounds")
    if len(streak.keys) < MAX_BAD_STEPS:
        return
    if streak.batches and _take(session, streak.batches, ()).wait().healthy:
        _save(session, replace(streak.healthy, best=session.state.best))
    saved = checkpoints(config.out)
    left = f"{saved[-1].name} is from before them" if saved else "there is no checkpoint from before them"
    keys = "; ".join(", ".join(step_keys) for step_keys in streak.keys)
    raise Diverged(
        f"{MAX_BAD_STEPS} consecutive steps were out of bounds, the last with {numbers}; {left}; their samples"
        f"{f' on rank {ranks.rank}' if ranks.world_size > 1 else ''}: {keys}"
    )


def _update_state(session: Session) -> None:
    if session.ranks.is_main:
        update_state(session.config.out, session.state, session.config.keep)


def _save(session: Session, state: TrainingState) -> None:
    """Write a checkpoint, on rank 0 only."""
    if session.ranks.is_main:
        config = session.config
        save_checkpoint(config.out, session.model, session.optimizers, session.average, state, config.keep)
