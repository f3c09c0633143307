"""Measure what grows with the number of samples: plan, resume, rank start, inspect, query, merge and explore.

A made corpus (no files, no headers) is planned by the real code; its shards have manifests, and tars that are empty
but for their size. Every step runs in a process of its own; the seconds of a verb include the start of Python.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from whisper_gpt.jobs.benchmarks.timing import last_line, peak_mb
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.progress import status_console

_CONDITION = "speaker = 19 and duration_s > 10"
_MOST_EXPLORED = 1_000_000  # `explore` holds a manifest in memory


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt bench scale`."""

    samples: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    """Numbers of samples to measure; ten million take half an hour."""
    folder: Path | None = None
    """Where to write the made datasets; by default the system's folder for temporary files."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Measure and print; return exit code 0."""
    require(min(config.samples, default=0) >= 1000, "--samples: must be at least 1000 each")
    console, results = status_console(), []
    for samples in sorted(config.samples):
        with tempfile.TemporaryDirectory(prefix="whisper-gpt-bench-", dir=config.folder) as folder:
            results.append({"samples": samples} | measure(Path(folder), samples, console))
    if config.json:
        print(json.dumps(results, indent=1))
    else:
        Console(highlight=False).print(_table(results))
    return 0


def measure(folder: Path, samples: int, console: Console) -> dict[str, dict[str, float]]:
    """Return seconds `s` and peak memory `mb` of each step, for a dataset of `samples`, merged with a tenth of that."""
    dataset, small = folder / "dataset", folder / "small"

    def step(name: str, dataset: Path = dataset, corpus: str = "made", count: int = samples) -> dict[str, float]:
        result = _probe("scale_probe", name, str(dataset), corpus, str(count))
        console.print(f"{count:,} samples: {name} {result['s']:.1f} s, {result['mb']:.0f} MB")
        return result

    measured = {"plan": step("plan")}
    step("make")
    measured |= {name: step(name) for name in ("finish", "resume", "rank")}
    measured["inspect"] = _verb("inspect", str(dataset), "--json")
    measured["query"] = _verb("query", str(dataset), _CONDITION)
    if samples <= _MOST_EXPLORED and find_spec("streamlit") is not None:
        explored = _probe("explore_probe", str(dataset), _CONDITION)
        measured["explore"] = {"s": explored["first_s"], "mb": explored["mb"]}
        measured["explore filter"] = {"s": explored["filter_s"], "mb": explored["mb"]}
    for name in ("plan", "make", "finish"):
        step(name, small, "other", samples // 10)
    measured["merge"] = _verb("merge", str(dataset), str(small), "--out", str(folder / "merged"))
    return measured


def _probe(module: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", f"whisper_gpt.jobs.benchmarks.{module}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise JobError(f"{' '.join(arguments)}: {last_line(done.stderr)}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _verb(*arguments: str) -> dict[str, float]:
    """Return seconds and peak memory of a verb, with the start of Python."""
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "whisper_gpt.jobs.cli", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise JobError(f"whisper-gpt {arguments[0]} failed")
    return {"s": time.monotonic() - begun, "mb": peak_mb(usage)}


def _table(results: list[dict]) -> Table:
    table = Table("", *(f"{result['samples']:,}" for result in results))
    for name in dict.fromkeys(name for result in results for name in result if name != "samples"):
        cells = [
            f"{result[name]['s']:.1f} s, {result[name]['mb']:,.0f} MB" if name in result else "" for result in results
        ]
        table.add_row(name, *cells)
    return table
