"""Check every shard and sample of a dataset against its manifest; print the problems; exit with 1 if there are any."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.progress import track
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.preprocessing.planning import PlanPart, read_parts
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import location
from whisper_gpt.manifests.verify import Planned, PlannedShard, Problem, verify_dataset


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt verify`."""

    dataset: Positional[UPath]
    """Folder, or s3:// or gs:// prefix, of a dataset made by `preprocess`."""


def run(config: Config) -> int:
    """Print each problem on its own line; return exit code 0, or 1 if there is one."""
    dataset = location(config.dataset)
    info = read_info(dataset)
    plan = planned(read_parts(dataset))
    console = status_console()
    problems: list[Problem] = []
    checks = verify_dataset(dataset, info, plan)
    for _, shard_problems in track(checks, "verifying", total=len(plan.shards) + 1, console=console, transient=True):
        problems += shard_problems
    for problem in problems:
        print(": ".join(part for part in (problem.file, problem.key, problem.what) if part))
    samples = sum(totals.samples for totals in info.splits.values())
    verdict = f"{len(problems)} problems" if problems else "OK"
    failed = f", {info.failed_sources} sources failed (see inspect)" if info.failed_sources else ""
    console.print(f"{config.dataset}: {samples} samples in {len(plan.shards)} shards{failed}; {verdict}")
    if problems:
        console.print("to rebuild a damaged shard, remove it and rerun preprocess")
    return 1 if problems else 0


def planned(parts: Sequence[PlanPart]) -> Planned:
    """Return the shards and sources that the parts of a plan list."""
    shards: dict[str, PlannedShard] = {}
    for part in parts:
        for shard, path in zip(part.rows["shard"].to_pylist(), part.rows["path"].to_pylist(), strict=True):
            shards.setdefault(shard, PlannedShard(set(), part.sha256)).sources.add(path)
    return Planned([part.sha256 for part in parts], shards)
