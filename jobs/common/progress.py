"""Progress bars over hours of audio or training steps, with speed and ETA.

Without a terminal, a plain line once a minute takes the bar's place.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_LINE_EVERY_S = 60


def status_console(log: TextIO | None = None) -> Console:
    """Return a console for progress messages: stderr or a log file, no markup, no wrapping."""
    return Console(file=log, stderr=True, highlight=False, markup=False, soft_wrap=True)


class Advance(Protocol):
    """Advances the bar by seconds of audio; those of an earlier run (`resumed`) do not count for the speed."""

    def __call__(self, seconds: float, resumed: bool = False) -> None: ...


class ShowStep(Protocol):
    """Shows a training step: number, nats per token, accuracy, tokens/s, share of time waiting for data, ETA."""

    def __call__(
        self, step: int, nats: float, accuracy: float, tokens_per_s: float, wait_share: float, eta_s: float
    ) -> None: ...


@contextmanager
def audio_progress(console: Console, total_s: float) -> Iterator[Advance]:
    """Show a bar over `total_s` seconds of audio, then print a summary."""
    started, done, done_here = time.monotonic(), 0.0, 0.0
    with progress_line(console, total_s) as show:

        def advance(seconds: float, resumed: bool = False) -> None:
            nonlocal done, done_here
            done += seconds
            done_here += 0.0 if resumed else seconds
            speed = done_here / max(1e-9, time.monotonic() - started)
            show(
                done,
                f"{_audio(done)} of {_audio(total_s)} · {speed:.1f}× real time",
                (total_s - done) / max(speed, 1e-9),
            )

        yield advance
    elapsed = time.monotonic() - started
    if done_here:
        console.print(f"{_audio(done_here)} of audio in {elapsed:.1f} s, {done_here / elapsed:.1f}× real time")


@contextmanager
def training_progress(console: Console, steps: int, first: int) -> Iterator[ShowStep]:
    """Show a bar over training steps, then print the last step."""
    last, text = first, ""
    with progress_line(console, steps) as line:

        def show(step: int, nats: float, accuracy: float, tokens_per_s: float, wait_share: float, eta_s: float) -> None:
            nonlocal last, text
            last = step
            text = f"{nats:.3f} nats · accuracy {accuracy:.1%} · {tokens_per_s:,.0f} tokens/s"
            line(step, f"step {step} of {steps} · {text}", eta_s)
            text += f" · {wait_share:.1%} waiting for data"

        yield show
    console.print(f"step {last}: {text}" if text else f"nothing to do: step {last} of {steps}")


def share_done(step: int, steps: int, elapsed_s: float, minutes: float | None) -> float:
    """Return the share of a training run that is done: by steps or by the clock, whichever is larger."""
    by_clock = elapsed_s / (60 * minutes) if minutes else 0.0
    return max(step / steps, by_clock)


class Show(Protocol):
    def __call__(self, completed: float, text: str, eta_s: float) -> None: ...


@contextmanager
def progress_line(console: Console, total: float) -> Iterator[Show]:
    """Show a bar with a text and an ETA; without a terminal, print the text once a minute."""
    columns = (TextColumn("{task.fields[text]}"), BarColumn(bar_width=12), TextColumn("ETA {task.fields[eta]}"))
    printed = time.monotonic()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total, text="", eta="–")

        def show(completed: float, text: str, eta_s: float) -> None:
            nonlocal printed
            eta = str(timedelta(seconds=round(min(eta_s, 1e8))))
            bar.update(task, completed=completed, text=text, eta=eta)
            if not console.is_terminal and time.monotonic() - printed >= _PLAIN_LINE_EVERY_S:
                printed = time.monotonic()
                console.print(f"{text} · ETA {eta}")

        yield show


def _audio(seconds: float) -> str:
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"
