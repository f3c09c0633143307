"""Check every shard and sample of a dataset against its manifest; print the problems; exit with 1 if there are any."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice

import ray
from rich.progress import track
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import require
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.common.ray_cluster import cluster, first_ready, refuse_dead_address
from whisper_gpt.jobs.common.signals import stop_signals
from whisper_gpt.jobs.preprocessing.planning import read_parts
from whisper_gpt.manifests.dataset_info import DatasetInfo, read_info
from whisper_gpt.manifests.location import Location, location
from whisper_gpt.manifests.verify import Checked, PlannedShard, Problem, verify_shard, verify_whole
from whisper_gpt.pipeline.shards.plan import PlanPart


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt verify`."""

    dataset: Positional[UPath]
    """Folder, or s3:// or gs:// prefix, of a dataset made by `preprocess`."""
    workers: int = 0
    """Number of Ray workers, each on one core; 0 works in this process, without Ray."""
    ray_address: str | None = None
    """Address of a Ray cluster, as HOST:PORT or auto; by default $RAY_ADDRESS, else Ray is started on this machine."""


def run(config: Config) -> int:
    """Print each problem on its own line; return exit code 0, or 1 if there is one."""
    require(config.workers >= 0, f"--workers {config.workers}: must not be negative")
    require(config.workers > 0 or not config.ray_address, "--ray-address: is for workers; pass --workers, too")
    refuse_dead_address(config.ray_address)
    dataset = location(config.dataset)
    info, parts = read_info(dataset), read_parts(dataset)
    planned = {shard for part in parts for shard in part.read(["shard"])["shard"].unique().to_pylist()}
    console = status_console()
    checks = check_shards(dataset, info, planned_shards(parts), config.workers, config.ray_address)
    checked = []
    for shard in track(checks, "verifying", total=len(planned), console=console, transient=True):
        _print(shard.problems)
        checked.append(shard)
    whole = list(verify_whole(dataset, info, [part.sha256 for part in parts], planned, checked))
    _print(whole)
    problems = len(whole) + sum(len(shard.problems) for shard in checked)
    samples = sum(totals.samples for totals in info.splits.values())
    verdict = f"{problems} problems" if problems else "OK"
    failed = f", {info.failed_sources} sources failed (see inspect)" if info.failed_sources else ""
    console.print(f"{config.dataset}: {samples} samples in {len(planned)} shards{failed}; {verdict}")
    if problems:
        console.print("to rebuild a damaged shard, remove it and rerun preprocess")
    return 1 if problems else 0


def planned_shards(parts: Iterable[PlanPart]) -> Iterator[PlannedShard]:
    """Yield the shards that the parts of a plan list, with their sources, reading a few thousand rows at a time."""
    for part in parts:
        rows = (row for table in part.tables(["shard", "path"]) for row in table.to_pylist())
        for shard, members in groupby(rows, key=lambda row: row["shard"]):
            yield PlannedShard(shard, {row["path"] for row in members}, part.sha256)


def check_shards(
    dataset: Location, info: DatasetInfo, shards: Iterable[PlannedShard], workers: int, address: str | None = None
) -> Iterator[Checked]:
    """Check the shards here, or as Ray tasks, of which two per worker are in flight; yield each when it is done."""
    if workers == 0:
        yield from (verify_shard(dataset, info, shard) for shard in shards)
        return
    with cluster(address, workers), stop_signals() as stopped:
        check = ray.remote(verify_shard)
        shared = ray.put(info)
        tasks = (check.remote(dataset, shared, shard) for shard in shards)
        running = set(islice(tasks, 2 * workers))
        while running:
            done = first_ready(running, stopped)
            running.remove(done)
            running.update(islice(tasks, 1))
            yield ray.get(done)


def _print(problems: Iterable[Problem]) -> None:
    for problem in problems:
        print(": ".join(part for part in (problem.file, problem.key, problem.what) if part))
