"""Scan a corpus, write the plan of its dataset, and estimate how long preprocessing takes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.preprocessing.estimate import MAX_SOURCES, Measured, measure, own_cores
from whisper_gpt.jobs.preprocessing.options import (
    DatasetOptions,
    begin_settings,
    check,
    source_root,
    survey,
    worker_setup,
)
from whisper_gpt.jobs.preprocessing.planning import (
    load_rows,
    publish_absent,
    refuse_foreign_folder,
    settle_plan,
    shard_tasks,
)
from whisper_gpt.jobs.preprocessing.scanning import examine_all
from whisper_gpt.manifests.fragments import committed_shards
from whisper_gpt.manifests.location import location
from whisper_gpt.manifests.scratch import remove_stale_scratch, scratch_folder
from whisper_gpt.pipeline.corpora.recording import SPLITS
from whisper_gpt.pipeline.shards.plan import PlanPart, PlanSettings

MEASURE_S = 20.0  # how long the machine is measured for the estimate


@dataclass(frozen=True)
class Config(DatasetOptions):
    """Options of `whisper-gpt plan`."""

    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Write the plan of a dataset, or compare it with the existing one, and print it; return exit code 0."""
    check(config)
    dataset = location(config.out)
    refuse_foreign_folder(dataset)
    remove_stale_scratch()
    root, wait_for_settings = source_root(config), begin_settings(config)
    with scratch_folder() as scratch:
        corpus = survey(config, root, scratch, status_console())
        settings = wait_for_settings()
        with output_lock(dataset):
            examine = partial(examine_all, root)
            parts = settle_plan(dataset, corpus, examine, settings, config.extend, config.retry_failed)
            publish_absent(dataset, corpus.absent)
    committed = committed_shards(dataset, [part.sha256 for part in parts])
    to_do = shard_tasks(parts, committed)
    totals, console = split_totals(parts, settings), Console(highlight=False)
    if not config.json:
        console.print(plan_table(totals))
    measured, seconds = None, sum(task.seconds for task in to_do)
    if to_do:
        local = 1 if config.device == "cuda" else min(own_cores(), config.workers or own_cores())
        setup = worker_setup(config, root, settings)
        rows = (row for task in to_do for row in load_rows(setup.job, task))
        measured = measure(setup, list(islice(rows, MAX_SOURCES * local)), local, MEASURE_S)
    if config.json:
        speed = {"real_time_per_worker": measured.speed, "workers": measured.workers} if measured else None
        plan = {"plan": str(dataset / parts[-1].name), "splits": totals, "to_do_s": seconds, "measured": speed}
        print(json.dumps(plan, indent=1))
        return 0
    if not to_do:
        words = "every shard of the plan exists"
    elif measured is None:
        words = "no estimate: none of the sources that were tried could be encoded"
    else:
        words = in_words(measured, seconds, config.workers or measured.workers, config.device)
    console.print(words, soft_wrap=True)
    console.print(f"plan: {dataset / parts[-1].name}; next, run whisper-gpt preprocess with the same options")
    return 0


def split_totals(parts: Sequence[PlanPart], settings: PlanSettings) -> dict[str, dict[str, float]]:
    """Return each split's sources, hours, shards, gigabytes and unreadable sources, of a plan."""
    rows = pa.concat_tables([part.read(["split", "shard", "seconds", "sample_rate"]) for part in parts])
    totals = {}
    for split in SPLITS:
        planned = rows.filter(pc.equal(rows["split"], split))
        if planned.num_rows:
            seconds = pc.sum(planned["seconds"]).as_py()
            totals[split] = {
                "sources": planned.num_rows,
                "hours": seconds / 3600,
                "shards": pc.count_distinct(planned["shard"].cast(pa.string())).as_py(),
                "GB": settings.bytes_of(seconds) / 1e9,
                "unreadable": pc.sum(pc.equal(planned["sample_rate"], 0)).as_py(),
            }
    return totals


def plan_table(totals: dict[str, dict[str, float]]) -> Table:
    """Return the totals of the splits as a table."""
    table = Table("split", "sources", "hours", "shards", "GB", "unreadable")
    for split, numbers in totals.items():
        table.add_row(split, *(f"{n:.3f}" if isinstance(n, float) else str(n) for n in numbers.values()))
    return table


def in_words(measured: Measured, seconds: float, workers: int, device: str) -> str:
    """Return the estimate for `seconds` of audio that are not made yet, as text."""
    unit, hours = ("GPU", "GPU-hours") if device == "cuda" else ("core", "core-hours")
    worker_s = seconds / measured.speed
    return (
        f"to do: {seconds / 3600:.2f} h of audio · here {measured.speed:.1f}× real time per {unit} with "
        f"{measured.workers} in use · {worker_s / 3600:.2f} {hours} · "
        f"{timedelta(seconds=round(worker_s / workers))} with {workers} workers, plus the start of Ray"
    )
