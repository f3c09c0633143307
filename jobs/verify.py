"""Check every shard and sample of a dataset against its manifest; what is wrong is named, and the exit code is 1."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track
from tyro.conf import Positional

from manifests.dataset_info import read_info
from manifests.verify import Problem, verify_dataset
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
    planned = set(read_plan(plan_file.read_bytes(), str(plan_file))["shard"].to_pylist())
    console = Console(stderr=True)
    problems: list[Problem] = []
    checks = verify_dataset(config.dataset, info, planned)
    for _, found in track(checks, "verifying", total=len(planned) + 1, console=console, transient=True):
        problems += found
    for problem in problems:
        print(": ".join(part for part in (problem.file, problem.key, problem.what) if part))
    samples = sum(totals.samples for totals in info.splits.values())
    verdict = f"{len(problems)} problems" if problems else "all well"
    console.print(f"{config.dataset}: {samples} samples in {len(planned)} shards, {verdict}", highlight=False)
    return 1 if problems else 0
