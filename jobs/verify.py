"""Check every shard and sample of a dataset against its manifest; what is wrong is named, and the exit code is 1."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track
from tyro.conf import Positional

from jobs.progress import status_console
from manifests.dataset_info import read_info
from manifests.verify import Planned, Problem, verify_dataset
from pipeline.plan import PLAN_FILE, read_plan


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt verify`."""

    dataset: Positional[Path]
    """Folder of a dataset that `preprocess` made."""


def run(config: Config) -> int:
    """Print each problem on a line of its own → exit code 0, or 1 where there is one."""
    info = read_info(config.dataset)
    plan_file = config.dataset / PLAN_FILE
    data = plan_file.read_bytes()
    sources: dict[str, set[str]] = {}
    for row in read_plan(data, str(plan_file)).select(["shard", "path"]).to_pylist():
        sources.setdefault(row["shard"], set()).add(row["path"])
    console = status_console()
    problems: list[Problem] = []
    checks = verify_dataset(config.dataset, info, Planned(hashlib.sha256(data).hexdigest(), sources))
    for _, found in track(checks, "verifying", total=len(sources) + 1, console=console, transient=True):
        problems += found
    for problem in problems:
        print(": ".join(part for part in (problem.file, problem.key, problem.what) if part))
    samples = sum(totals.samples for totals in info.splits.values())
    verdict = f"{len(problems)} problems" if problems else "all well"
    failed = f", {info.failed_sources} sources failed (see inspect)" if info.failed_sources else ""
    console.print(f"{config.dataset}: {samples} samples in {len(sources)} shards{failed}; {verdict}")
    if problems:
        console.print("to make a damaged shard again, remove it and rerun preprocess")
    return 1 if problems else 0
