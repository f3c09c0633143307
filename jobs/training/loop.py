"""The loop: take batches, step, and now and then score and save."""

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

from jobs.errors import JobError
from jobs.progress import share_done
from jobs.scoring import Score, score_model
from jobs.training.checkpoints import Best, TrainingState, save_checkpoint
from jobs.training.monitor import Clock, Monitor
from jobs.training.optimizers import learning_rate, set_learning_rate
from jobs.training.ranks import autocast, seed_everything
from jobs.training.session import Session
from jobs.training.step import train_step
from pipeline.stream import batches


def train(session: Session, monitor: Monitor | None, stopped: Callable[[], bool]) -> bool:
    """Train until the run is done (True), or until the leader is told to stop (False); a checkpoint is left either way.

    Every rank takes the same steps. Raises `JobError` after too many steps in a row whose numbers are out of bounds.
    """
    config, ranks, clock = session.config, session.ranks, Clock()
    elapsed_before, wanted_to_stop = session.state.elapsed_s, False
    first = done = _done(session)
    if session.state.unscored:
        _evaluate(session, monitor, stopped)
        _save(session, session.state)
        wanted_to_stop = session.state.unscored
    healthy = session.state  # the last one before a bad step
    bad: list[list[str]] = []  # the keys of the bad batches since
    while done < 1 and not wanted_to_stop:
        state = session.state
        seed_everything(config.seed, state.step, ranks.rank)
        rate = learning_rate(config, done)
        set_learning_rate(session.optimizers, rate)
        asked = time.monotonic()
        taken = [next(session.training) for _ in range(config.accumulate)]
        clock.waiting_s += time.monotonic() - asked
        result = train_step(
            session.objective,
            session.optimizers,
            taken,
            ranks,
            clip=config.clip,
            most_nats=session.most_nats,
            precision=config.precision,
        )
        if session.average is not None and result.healthy:
            session.average.update_parameters(session.model)
        seconds = time.monotonic() - asked
        clock.stepping_s += seconds
        elapsed, stop = ranks.of_leader([elapsed_before + time.monotonic() - clock.started, float(stopped())])
        wanted_to_stop = bool(stop)
        session.state = state = replace(
            state,
            step=state.step + 1,
            elapsed_s=elapsed,
            stream=session.training.state_dict(),
            skipped=state.skipped + (not result.healthy),
        )
        if result.healthy:
            healthy, bad = state, []
        else:
            bad.append(sorted({key for batch in taken for keys in batch.keys for key in keys}))
            _answer_bad_step(session, monitor, healthy, bad, result.token_nats, result.gradient_norm)
        done = _done(session)
        if monitor:
            eta_s = (elapsed - elapsed_before) * max(0.0, 1 - done) / max(done - first, 1e-9)
            monitor.step(state.step, result, rate, seconds, clock, eta_s)
        best = False
        if session.validation is not None and (done >= 1 or state.step % config.eval_every == 0):
            best = _evaluate(session, monitor, stopped)
            wanted_to_stop = wanted_to_stop or session.state.unscored
        if done >= 1 or wanted_to_stop or best or state.step % config.save_every == 0:
            _save(session, session.state)
    if monitor:
        monitor.end()
    return done >= 1


def _done(session: Session) -> float:
    config, state = session.config, session.state
    return share_done(state.step, config.steps, state.elapsed_s, config.minutes)


def _evaluate(session: Session, monitor: Monitor | None, stopped: Callable[[], bool]) -> bool:
    """Score the validation split, each rank its share → whether that was the best so far.

    A signal breaks it off: what is left until the checkpoint is to take seconds. The run that goes on begins with it.
    """
    assert session.validation is not None
    config, ranks = session.config, session.ranks
    windows = itertools.islice(batches(session.validation), config.eval_batches)
    until_stopped = (batch.to(ranks.device) for batch in itertools.takewhile(lambda _: not stopped(), windows))
    with autocast(config.precision, ranks.device):
        own = score_model(session.scored_model, until_stopped)
    nats, hits, tokens, broken_off = ranks.sum([own.nats, own.hits, own.tokens, float(stopped())])
    session.state = replace(session.state, unscored=bool(broken_off))
    if broken_off:
        return False
    score = Score(nats, int(hits), int(tokens))
    if monitor:
        monitor.evaluation(session.state.step, score)
    before = session.state.best
    if before is not None and before.nats <= score.nll:
        return False
    session.state = replace(session.state, best=Best(session.state.step, score.nll))
    return True


def _answer_bad_step(
    session: Session, monitor: Monitor | None, healthy: TrainingState, bad: list[list[str]], nats: float, norm: float
) -> None:
    """Say that a step was skipped; after too many in a row save the state before them, and raise `JobError`."""
    step, most = session.state.step, session.config.max_bad_steps
    if monitor:
        monitor.say(f"step {step} skipped: {nats:.3g} nats a token, gradient {norm:.3g}, out of bounds")
    if len(bad) < most:
        return
    _save(session, healthy)
    keys = "; ".join(", ".join(one) for one in bad)
    raise JobError(
        f"{most} steps in a row were out of bounds, the last with {nats:.3g} nats a token and a gradient of "
        f"{norm:.3g}; the checkpoint of step {healthy.step} is from before them; their samples: {keys}"
    )


def _save(session: Session, state: TrainingState) -> None:
    """Write a checkpoint, by the leader alone."""
    if session.ranks.leads:
        config = session.config
        save_checkpoint(config.out, session.model, session.optimizers, session.average, state, config.keep)
