"""Measure windows per second of our stream against other loaders on the same samples, and how fast a resume is.

Every measurement runs in its own process, which loops over the samples endlessly and counts from its first batch on.
"In process" means a loader without workers. With "two processes", a rival has two workers in addition to the process
that takes their batches; ours, which uses a thread instead of workers, runs as two ranks at once.
"""

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.benchmarks.loader_rivals import BATCH, CONTEXT, RIVALS, Tensors
from whisper_gpt.jobs.benchmarks.restore_speed import RestoreSpeed, restore_speed
from whisper_gpt.jobs.benchmarks.timing import Timing, timing_of
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import Location, is_remote, location
from whisper_gpt.manifests.splits import read_split
from whisper_gpt.pipeline.loading.stream import StreamConfig, stream
from whisper_gpt.pipeline.shards.tar import shard_path

OURS = "whisper-gpt"
_COLUMNS = ("in_process", "two_processes")
_ENDLESS = 10**9  # epochs

_barrier: Any = None  # in each of the processes that are measured together


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt bench loader`."""

    dataset: Positional[UPath]
    """Folder of a dataset made by preprocess; 45 MB of shards are enough, as they are read repeatedly."""
    split: str = "train"
    """Split to read."""
    seconds: float = 3.0
    """Length of each measurement in seconds, from the first batch on."""
    rounds: int = 5
    """Number of rounds, each with every loader; the median is reported."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class LoaderSpeed:
    """Windows per second by loader (ours is whisper-gpt), why loaders are `absent`, and the time to resume."""

    in_process: dict[str, Timing]
    two_processes: dict[str, Timing]
    absent: dict[str, str]
    frames_per_window: float
    restore: RestoreSpeed


def run(config: Config) -> int:
    """Measure and print; return exit code 0."""
    require(config.rounds >= 1, f"--rounds {config.rounds}: must be at least 1")
    require(config.seconds > 0, f"--seconds {config.seconds}: must be above 0")
    result = loader_speed(config)
    if config.json:
        print(json.dumps(asdict(result)))
    else:
        _print(result)
    return 0


def loader_speed(config: Config) -> LoaderSpeed:
    """Prepare every installed rival's data (not timed) and measure in alternation. Raises `JobError` if ours fails."""
    tars, frames_per_window = shards(config.dataset, config.split)
    absent = {name: "not installed" for name, rival in RIVALS.items() if not rival.installed()}
    rates: dict[str, dict[str, list[float]]] = {column: {} for column in _COLUMNS}
    console = status_console()
    with tempfile.TemporaryDirectory(prefix="whisper-gpt-bench-") as folder:
        sources: dict[str, Any] = {OURS: (str(config.dataset), config.split)}
        for name in RIVALS.keys() - absent.keys():
            rival_folder = Path(folder, name)
            rival_folder.mkdir()
            try:
                sources[name] = _in_processes(1, _prepare, name, tars, rival_folder)[0]
            except Exception as error:
                absent[name] = _failed(error)
        for tar in tars:
            tar.read_bytes()  # into the page cache, for the first loader as for the last
        for number in range(config.rounds):
            for name in [OURS, *(rival for rival in RIVALS if rival in sources)]:
                for workers, column in enumerate(_COLUMNS):
                    if name in absent:
                        continue
                    try:
                        rate = _measure(name, sources[name], 2 * workers, config.seconds)
                    except Exception as error:
                        if name == OURS:
                            raise JobError(f"{config.dataset}: cannot be measured: {_failed(error)}") from error
                        absent[name] = _failed(error)
                    else:
                        rates[column].setdefault(name, []).append(rate)
                        console.print(f"round {number}: {name} {column.replace('_', ' ')}: {rate:.0f} windows/s")
    in_process, two_processes = (
        {name: timing_of(values) for name, values in rates[column].items() if name not in absent} for column in _COLUMNS
    )
    restore = restore_speed(CONTEXT, BATCH, rounds=4 * config.rounds)
    return LoaderSpeed(in_process, two_processes, absent, frames_per_window, restore)


def shards(dataset: Location, split: str) -> tuple[list[Path], float]:
    """Return the tars of a split and the mean frames per window. Raises `JobError` if the dataset is remote."""
    folder = location(dataset)
    if is_remote(folder):
        raise JobError(f"{dataset}: is in an object store; measure on a copy in a local folder")
    rows = read_split(folder, read_info(folder), split, ("shard", "frames"))
    frames = rows["frames"].to_numpy()
    tars = [Path(str(shard_path(folder, split, shard))) for shard in rows["shard"].unique().to_pylist()]
    return tars, float(frames.sum() / (-(-frames // CONTEXT)).sum())


def _measure(name: str, source: Any, workers: int, seconds: float) -> float:
    """Return the windows per second of one loader, without workers or with two."""
    if name == OURS:
        return sum(_in_processes(max(1, workers), _rate_of_ours, *source, seconds))
    return _in_processes(1, _rate_of_rival, name, source, workers, seconds)[0]


def _rate_of_ours(rank: int, world: int, dataset: str, split: str, seconds: float) -> float:
    return _rate(_our_batches(dataset, split, rank, world), seconds)


def _our_batches(dataset: str, split: str, rank: int, world: int) -> Iterator[Tensors]:
    for batch in stream(dataset, split, StreamConfig(CONTEXT, BATCH, rank=rank, world_size=world)):
        yield batch.codes, batch.mel, batch.mask


def _rate_of_rival(rank: int, world: int, name: str, source: Any, workers: int, seconds: float) -> float:
    return _rate(RIVALS[name].batches(source, workers, _ENDLESS), seconds)


def _prepare(rank: int, world: int, name: str, tars: Sequence[Path], folder: Path) -> Any:
    return RIVALS[name].prepare(tars, folder)


def _rate(batches: Iterable[Tensors], seconds: float) -> float:
    """Return the windows per second from the first batch on."""
    iterator = iter(batches)
    next(iterator)
    _barrier.wait()
    windows, took, begun = 0, 0.0, time.perf_counter()
    while took < seconds:
        windows += len(next(iterator)[0])
        took = time.perf_counter() - begun
    return windows / took


def _in_processes(processes: int, do: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Run `do(rank, world, *arguments)` in that many new processes at once; return the results, drop their output."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(processes)
    with ProcessPoolExecutor(processes, context, _set_up, (barrier,)) as pool:
        futures = [pool.submit(do, rank, processes, *arguments) for rank in range(processes)]
        return [future.result() for future in futures]


def _set_up(barrier: Any) -> None:
    """Prepare a process to measure in."""
    global _barrier
    _barrier = barrier
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # for loaders' workers: adapters have nested functions
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)


def _failed(error: Exception) -> str:
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _print(result: LoaderSpeed) -> None:
    console = Console(highlight=False)
    for column in _COLUMNS:
        timings: dict[str, Timing] = getattr(result, column)
        table = Table(f"{column.replace('_', ' ')}: windows/s", "median", "least", "most", "ours / it")
        for name, timing in timings.items():
            numbers = (f"{number:,.0f}" for number in vars(timing).values())
            table.add_row(name, *numbers, f"{timings[OURS].median / timing.median:.1f}")
        console.print(table)
    for name, why in result.absent.items():
        console.print(f"{name}: {why}")
    console.print(f"batches of {BATCH} windows of at most {CONTEXT} frames, {result.frames_per_window:.0f} on average")
    restore, tables = result.restore.restore_ms, result.restore.cut_windows_ms
    console.print(
        f"resuming among {result.restore.samples:,} samples: {restore.median:.1f} ms "
        f"({restore.least:.1f}–{restore.most:.1f}), after {tables.median:.0f} ms to cut their windows at the start"
    )
