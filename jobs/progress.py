"""What a verb shows while it runs: bars over hours of audio or training steps, with speed and ETA."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


def status_console() -> Console:
    """Where verbs say how they fare: stderr, text as it is, lines as long as they are."""
    return Console(stderr=True, highlight=False, markup=False, soft_wrap=True)


class Advance(Protocol):
    """Counts seconds of audio as done; `resumed` ones were an earlier run's and do not count for the speed."""

    def __call__(self, seconds: float, resumed: bool = False) -> None: ...


@contextmanager
def audio_progress(console: Console, total_s: float) -> Iterator[Advance]:
    """A bar over `total_s` seconds of audio; what it ended with is printed also where there is no terminal."""
    columns = (
        TextColumn("{task.fields[hours]:.2f} of {task.fields[total_hours]:.2f} h"),
        BarColumn(),
        TextColumn("{task.percentage:.0f} % · {task.fields[speed]:.1f}× real time · ETA"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    started, done, own = time.monotonic(), 0.0, 0.0
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total_s, hours=0.0, total_hours=total_s / 3600, speed=0.0)

        def advance(seconds: float, resumed: bool = False) -> None:
            nonlocal done, own
            done += seconds
            own += 0.0 if resumed else seconds
            elapsed = time.monotonic() - started
            bar.update(task, completed=done, hours=done / 3600, speed=own / elapsed if elapsed > 0 else 0.0)

        yield advance
    elapsed = time.monotonic() - started
    if own:
        console.print(f"{own / 3600:.2f} h of audio in {elapsed:.1f} s, {own / elapsed:.1f}× real time")


class ShowStep(Protocol):
    """Shows a training step: its number, nats per token, accuracy, tokens/s, and the share of time spent waiting."""

    def __call__(self, step: int, nats: float, accuracy: float, tokens_per_s: float, wait_share: float) -> None: ...


@contextmanager
def training_progress(console: Console, steps: int, first: int) -> Iterator[ShowStep]:
    """A bar over training steps, and what it ended with."""
    columns = (
        TextColumn("step {task.completed:.0f} of {task.total:.0f}"),
        BarColumn(),
        TextColumn("{task.fields[shown]} · ETA"),
        TimeRemainingColumn(elapsed_when_finished=True),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=steps, completed=first, shown="")
        shown = ""

        def show(step: int, nats: float, accuracy: float, tokens_per_s: float, wait_share: float) -> None:
            nonlocal shown
            speed = f"{tokens_per_s:,.0f} tokens/s, {wait_share:.1%} waiting for data"
            shown = f"{nats:.3f} nats, {accuracy:.1%} right, {speed}"
            bar.update(task, completed=step, shown=shown)

        yield show
        last = int(bar.tasks[0].completed)
    console.print(f"step {last}: {shown}" if shown else f"nothing to do: step {last} of {steps}")
