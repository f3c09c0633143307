"""Time rivals in alternation, so that a disturbance affects all of them; read the memory and the error of a process."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Median, minimum and maximum of a measurement, by default the seconds of a run."""

    median: float
    least: float
    most: float

    def speeds(self, amount: float) -> "Timing":
        """Convert seconds to speeds: `amount` per second."""
        return Timing(amount / self.median, amount / self.most, amount / self.least)


def time_in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Run all of `runs` once to warm up, then `rounds` times in alternation; return the timing of each."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: timing_of(took) for name, took in seconds.items()}


def timing_of(values: Sequence[float]) -> Timing:
    """Return the median, minimum and maximum of `values`."""
    return Timing(statistics.median(values), min(values), max(values))


def peak_mb(usage: resource.struct_rusage) -> float:
    """Return the peak memory of a process in MB."""
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def last_line(stderr: str) -> str:
    """Return the last line that a failed process printed."""
    return (stderr.strip().splitlines() or ["killed"])[-1]
