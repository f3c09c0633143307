"""Train every row of the paper's table under one budget, on each dataset, and write the table with its intervals.

A rerun resumes: trials that are finished are not repeated.
"""

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.config_files import save_config
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.common.ray_cluster import cluster, refuse_dead_address
from whisper_gpt.jobs.reproduction.measures import BITS_PER_S, NLL, Measure
from whisper_gpt.jobs.reproduction.plan import Domain, Search, keep_plan, plan_of, planned_tokens
from whisper_gpt.jobs.reproduction.plots import learning_curves, position_curves
from whisper_gpt.jobs.reproduction.results import RowResult, count_no_longer_chosen, row_results
from whisper_gpt.jobs.reproduction.rows import lacking, rows_of
from whisper_gpt.jobs.reproduction.schedule import Log, afford, run_all
from whisper_gpt.jobs.reproduction.table import figure_names, table_json, table_markdown
from whisper_gpt.jobs.reproduction.trials import Budget
from whisper_gpt.jobs.training.distributed import PrecisionChoice, choose_precision, single_process
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import Location, location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.shards.task import Device


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt reproduce`."""

    datasets: Positional[tuple[UPath, ...]]
    """Datasets; each gets its own table, named after its folder (names with speech or music also show the paper's
    figures). They need the mel variants that the rows read: preprocess --mel-of both --leaky-control."""
    out: Path
    """Folder of the results: the table, its figures, every trial. All machines of a cluster must share it."""
    tokens: int | None = None
    """Training tokens per trial, whatever the model. Pass either --tokens or --budget."""
    budget: float | None = None
    """Minutes that all trials may take on these machines; timing a few steps of each row turns them into tokens."""
    seeds: int = 3
    """Number of trials per row, with different initial weights and data orders."""
    learning_rates: tuple[float, ...] = (1e-3, 3e-3, 9e-3)
    """Learning rates to try; each row takes the best one on the validation split, by its first seed."""
    rows: tuple[str, ...] = ()
    """Rows to train and to show, such as gpt-4m hybrid-4m; by default all that the datasets allow."""
    all_codebooks: bool = False
    """Compare models of all codebooks (with a depth decoder, the delay and the flat pattern) in bits per second of
    audio, instead of the paper's rows, which predict codebook 0."""
    context: int = 512
    """Frames per window."""
    batch: int = 8
    """Windows per step."""
    precision: PrecisionChoice = "auto"
    """Autocast precision of training; auto: bf16 on a GPU that computes in bfloat16, else fp32."""
    device: Device = "cpu"
    """Device of each trial; with cuda it takes one GPU."""
    compile: bool = False
    """Compile the models (torch.compile)."""
    threads: int = 1
    """CPU cores per trial."""
    workers: int | None = None
    """Number of trials that run in parallel on this machine; by default as many as its cores or GPUs allow. 0 runs them
    sequentially in this process, without Ray."""
    ray_address: str | None = None
    """Address of a Ray cluster for the trials, as HOST:PORT or auto; by default $RAY_ADDRESS, else this machine."""


def run(config: Config) -> int:
    """Run the remaining trials, write the table and its figures; return exit code 0."""
    _check(config)
    console = status_console()
    results, datasets = config.out.absolute(), [location(dataset) for dataset in config.datasets]
    measure = BITS_PER_S if config.all_codebooks else NLL
    domains = [_domain(dataset, config.rows, measure) for dataset in datasets]
    for row in (row for domain in domains for row in domain.rows):
        require(
            config.context % row.positions_per_frame == 0,
            f"--context {config.context}: {row.name} needs a multiple of {row.positions_per_frame}",
        )
    search = Search(config.learning_rates, tuple(range(config.seeds)))
    refuse_dead_address(config.ray_address)
    with output_lock(results):
        with _places(config) as slots:
            budget = _budget(config, domains, search, results, slots, console.print)
            keep_plan(results, plan_of(domains, budget))
            save_config(config, results / "reproduce.yaml")
            run_all(domains, search, budget, results, config.workers != 0, console.print)
        _publish(domains, search, budget, results)
    console.print(f"{results / 'table.md'}: the table; table.json and the plots are in the same folder")
    return 0


@contextmanager
def _places(config: Config) -> Iterator[int]:
    """Start or join Ray, and yield the number of parallel trials; 0 without Ray."""
    if config.workers == 0:
        yield 0
        return
    cores = config.workers and config.workers * config.threads
    with cluster(config.ray_address, cores, config.device) as slots:
        max_cores = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        require(config.threads <= max_cores, f"--threads {config.threads}: the largest machine has {max_cores} cores")
        yield max(1, slots // (1 if config.device == "cuda" else config.threads))


def _publish(domains: Sequence[Domain], search: Search, budget: Budget, results: Path) -> None:
    """Write the table and its plots, once all trials are done."""
    measure = domains[0].measure
    rows_by_domain = {domain.name: row_results(domain, search, results) for domain in domains}
    note = [*_note(domains, search, budget, results), *_at_edges(rows_by_domain, search)]
    publish_bytes(
        results / "table.json", (json.dumps(table_json(rows_by_domain, note, measure), indent=1) + "\n").encode()
    )
    for name, rows in rows_by_domain.items():
        for file, draw in zip(figure_names(name).values(), (learning_curves, position_curves), strict=True):
            publish_bytes(results / file, draw(name, rows, measure))
    publish_bytes(results / "table.md", table_markdown(rows_by_domain, note, measure).encode())


def _check(config: Config) -> None:
    require(bool(config.datasets), "name at least one dataset")
    names = [location(dataset).name for dataset in config.datasets]
    require(len(set(names)) == len(names), f"each dataset needs its own name: {', '.join(names)}")
    require(
        (config.tokens is None) != (config.budget is None),
        "pass the length of each trial, either --tokens N, or --budget MINUTES",
    )
    least = {"tokens": 1, "seeds": 1, "context": 2, "batch": 1, "threads": 1}
    for name, bound in least.items():
        value = getattr(config, name)
        require(value is None or value >= bound, f"--{name} {value}: must be at least {bound}")
    require(config.budget is None or 0 < config.budget < math.inf, f"--budget {config.budget}: must be above zero")
    require(config.workers is None or config.workers >= 0, f"--workers {config.workers}: must not be negative")
    require(
        not (config.workers and config.ray_address),
        "--workers is for this machine: not with --ray-address",
    )
    rates = config.learning_rates
    require(
        bool(rates) and all(0 < rate < math.inf for rate in rates),
        "--learning-rates: at least one, all above zero",
    )
    require(len(set(rates)) == len(rates), "--learning-rates: pass each only once")


def _domain(dataset: Location, rows: Sequence[str], measure: Measure) -> Domain:
    """Return a dataset with its rows. Raises `JobError` if one of the three splits is empty."""
    info = read_info(dataset)
    domain = Domain(dataset, info, rows_of(dataset.name, info, rows, measure), measure)
    for split in ("train", "validation", "test"):
        if split not in info.splits or not info.splits[split].samples:
            raise JobError(f"{dataset} has no {split} split; preprocess --hold-out makes one from whole speakers")
    return domain


def _budget(config: Config, domains: Sequence[Domain], search: Search, results: Path, slots: int, log: Log) -> Budget:
    """Return the budget of all trials; with --budget, its tokens are those planned before, or what the time allows."""
    budget = Budget(
        tokens=config.tokens or planned_tokens(results) or 0,
        context=config.context,
        batch=config.batch,
        precision=choose_precision(config.precision, single_process(config.device).device),
        device=config.device,
        compile=config.compile,
        threads=config.threads,
    )
    if config.budget and not budget.tokens:
        log(f"timing a few steps of each row, for a table in {config.budget:g} minutes")
        budget = replace(budget, tokens=afford(domains, search, budget, config.budget, slots, results))
    log(f"{budget.tokens:,} tokens per trial, {budget.steps} steps of {budget.batch} windows of {budget.context}")
    return budget


def _at_edges(rows_by_domain: dict[str, list[RowResult]], search: Search) -> list[str]:
    """Return a note on rows that chose the lowest or highest rate, as a rate beyond it might be better."""
    edges = {min(search.learning_rates), max(search.learning_rates)}
    at_edge = [
        f"{row.row} ({name}, {row.learning_rate:g})"
        for name, rows in rows_by_domain.items()
        for row in rows
        if row.learning_rate in edges
    ]
    return (
        [f"At an edge of the rates that were tried, perhaps better beyond it: {', '.join(at_edge)}."] if at_edge else []
    )


def _note(domains: Sequence[Domain], search: Search, budget: Budget, results: Path) -> list[str]:
    """Return the notes on budget, search and data for the report."""
    rates, seeds = ", ".join(f"{rate:g}" for rate in search.learning_rates), ", ".join(map(str, search.seeds))
    tokens = budget.steps * budget.batch * budget.context
    lines = [
        f"Budget: {tokens:,} tokens per trial ({budget.steps} steps of {budget.batch} packed windows of "
        f"{budget.context} frames, {budget.precision}), the same windows in the same order for each row.",
        f"Learning rates {rates} tried with seed {search.seeds[0]}; the best on the validation split is trained with "
        f"seeds {seeds}. The test split is scored once, at the end.",
    ]
    for domain in domains:
        info = domain.info
        hours = ", ".join(f"{split} {totals.seconds / 3600:.2f} h" for split, totals in info.splits.items())
        codec = f"{info.codec['name']} (weights {info.codec['weights_sha256'][:12]}…)"
        lines.append(f"{domain.name}: corpus {info.corpus}, tokens of {codec}; {hours}.")
        if missing := lacking(info, domain.measure):
            lines.append(f"{domain.name} does not allow the rows of {', '.join(missing)}: {domain.measure.remedy}.")
        if count := count_no_longer_chosen(domain, search, results):
            models = f"{count} models with rates that are no longer chosen"
            lines.append(f"{domain.name}: {models} were also scored on the test split, before the grid was widened.")
    return lines
