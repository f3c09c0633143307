"""Timing rivals in turn, so that what disturbs a machine disturbs all of them."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds a run took: median, least and most."""

    median: float
    least: float
    most: float

    def speeds(self, amount: float) -> "Timing":
        """`amount` a second instead: its median, least and most."""
        return Timing(amount / self.median, amount / self.most, amount / self.least)


def time_in_turn(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, Timing]:
    """Run all of `runs` once to warm up, then `rounds` times in turn → the timing of each."""
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
    """The median, least and most of some values."""
    return Timing(statistics.median(values), min(values), max(values))
