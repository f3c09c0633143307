"""Measure tokens per second of our training loop, with all its features on, against a plain token-only loop.

Ours is what `whisper-gpt train` runs: packed windows from the stream, weight average, curves, divergence check. The
plain loop is that of jobs/benchmarks/nanogpt.py, with gpt-4m's dimensions, fed from memory. Both run in eager mode and
compiled. The loops alternate in each round, and the first steps of each are not counted.
"""

import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.benchmarks.nanogpt import plain_loop
from whisper_gpt.jobs.benchmarks.timing import Timing, timing_of
from whisper_gpt.jobs.common.errors import require
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.training.config import Config as TrainConfig
from whisper_gpt.jobs.training.distributed import DeviceChoice, Precision, single_process
from whisper_gpt.jobs.training.loop import train
from whisper_gpt.jobs.training.monitor import Monitor
from whisper_gpt.jobs.training.session import Session, open_session
from whisper_gpt.model.config import PRESETS
from whisper_gpt.pipeline.loading.stream import whole_split

_PLAIN = "plain loop"
_WARM_UP = 2  # steps of a round that are not counted
_EMA = 0.999


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt bench train`."""

    dataset: Positional[Path]
    """Folder of a dataset made by preprocess."""
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    """Autocast precisions to measure."""
    compile: bool = True
    """Also measure both loops compiled, which takes a minute more for each loop."""
    device: DeviceChoice = "auto"
    """Device to train on; auto takes a GPU if torch finds one."""
    batch: int = 8
    """Windows per step."""
    context: int = 512
    """Frames per window."""
    steps: int = 8
    """Counted steps per loop and round."""
    rounds: int = 5
    """Number of rounds; the median is reported."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Row:
    """Tokens per second of one loop; for ours also the share of time spent waiting for data."""

    loop: str
    precision: Precision
    compiled: bool
    tokens_per_s: Timing
    to_plain: float  # ratio to the plain loop of the same precision, compiled if this one is
    wait_share: float | None


def run(config: Config) -> int:
    """Measure and print; return exit code 0."""
    for name in ("batch", "context", "steps", "rounds"):
        require(getattr(config, name) >= 1, f"--{name} {getattr(config, name)}: must be at least 1")
    rows = [row for precision in config.precisions for row in measure(config, precision, status_console())]
    if config.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
        return 0
    table = Table("loop", "precision", "compiled", "tokens/s", "least", "most", "to plain", "waits")
    for row in rows:
        waits = "–" if row.wait_share is None else f"{row.wait_share:.2%}"
        speeds = (f"{number:,.0f}" for number in vars(row.tokens_per_s).values())
        table.add_row(row.loop, row.precision, "yes" if row.compiled else "", *speeds, f"{row.to_plain:.2f}", waits)
    Console(highlight=False).print(table)
    return 0


def measure(config: Config, precision: Precision, console: Console) -> list[Row]:
    """Measure all loops in one precision, in alternation."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="whisper-gpt-bench-")))
        loops: dict[tuple[str, bool], Callable[[], tuple[float, float | None]]] = {}
        tokens = token_file(config.dataset, config.context)
        for compiled in (False, True) if config.compile else (False,):
            shape = replace(PRESETS["gpt-4m"], vocab=int(tokens.max()) + 1, context=config.context)
            device = single_process(config.device).device
            step = plain_loop(shape, tokens, config.batch, precision, device, compiled)
            loops[_PLAIN, compiled] = rival_loop(step, config.steps, config.batch * config.context)
            for model in ("gpt-4m", "hybrid-4m"):
                out = folder / f"{model}-{compiled}"
                options = our_options(config, model, precision, compiled, out)
                loops[model, compiled] = our_loop(options, config.steps, stack)
        rounds: dict[tuple[str, bool], list[tuple[float, float | None]]] = {key: [] for key in loops}
        for key, loop in loops.items():  # warm-up and compilation
            console.print(f"{precision}: {key[0]}{', compiled' * key[1]}: {loop()[0]:,.0f} tokens/s in the warm-up")
        for _ in range(config.rounds):
            for key, loop in loops.items():
                rounds[key].append(loop())
    rows = []
    for (name, compiled), measured in rounds.items():
        plain = timing_of([speed for speed, _ in rounds[_PLAIN, compiled]]).median
        speeds = timing_of([speed for speed, _ in measured])
        waits = [wait for _, wait in measured if wait is not None]
        rows.append(
            Row(name, precision, compiled, speeds, speeds.median / plain, float(np.mean(waits)) if waits else None)
        )
    return rows


class TimedMonitor(Monitor):
    """A monitor that records each step's end, its tokens, and the share of time spent waiting for data so far."""

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        self.ends: list[tuple[float, int, float]] = []

    def step(self, step: int, result: Any, rate: float, seconds: float, clock: Any, eta_s: float) -> None:
        super().step(step, result, rate, seconds, clock, eta_s)
        self.ends.append((time.perf_counter(), result.tokens, clock.wait_share))


def our_options(config: Config, model: str, precision: Precision, compiled: bool, out: Path) -> TrainConfig:
    """Return the options of `train` for a run that is measured: nothing but steps."""
    return TrainConfig(
        datasets=(UPath(config.dataset),),
        out=out,
        model=model,
        steps=10**9,
        batch=config.batch,
        context=config.context,
        precision=precision,
        device=config.device,
        compile=compiled,
        optimizer="adamw",  # as in the plain loop
        ema=_EMA,
        clip_s=0.0,
        eval_every=10**9,
        save_every=10**9,
    )


def our_loop(options: TrainConfig, steps: int, stack: contextlib.ExitStack) -> Callable[[], tuple[float, float | None]]:
    """Return a function that runs a round of our loop and returns tokens per second and the share of waiting."""
    session = open_session(options, single_process(options.device), False, lambda _: None)
    stack.enter_context(contextlib.closing(session))
    timed = stack.enter_context(quiet_monitor(session))

    def run_round() -> tuple[float, float | None]:
        timed.ends.clear()
        train(session, timed, lambda: len(timed.ends) >= _WARM_UP + steps - 1)
        counted = timed.ends[_WARM_UP:]
        tokens = sum(tokens for _, tokens, _ in counted)
        return tokens / (counted[-1][0] - timed.ends[_WARM_UP - 1][0]), counted[-1][2]

    return run_round


@contextlib.contextmanager
def quiet_monitor(session: Session) -> Iterator[TimedMonitor]:
    """Yield a timed monitor without console output."""
    with SummaryWriter(str(session.config.out / "tensorboard")) as writer:
        yield TimedMonitor(session, Console(quiet=True), writer, lambda *_: None)


def rival_loop(step: Callable[[], float], steps: int, tokens: int) -> Callable[[], tuple[float, float | None]]:
    """Return a function that runs a round of `step`, of that many tokens, and returns tokens per second."""

    def run_round() -> tuple[float, float | None]:
        for _ in range(_WARM_UP):
            step()
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        return steps * tokens / (time.perf_counter() - begun), None

    return run_round


def token_file(dataset: Path, context: int) -> np.ndarray:
    """Return the coarsest codes of the training split, concatenated, uint16 `[N]`, like nanoGPT's token files."""
    windows = whole_split(dataset, "train", context, 64)
    return np.concatenate([batch.codes[:, 0][batch.mask].numpy().astype(np.uint16) for batch in windows])
