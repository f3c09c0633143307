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
from whisper_gpt.jobs.reproduction.plan import Domain, Search, keep_plan, plan_of, planned_tokens
from whisper_gpt.jobs.reproduction.plots import learning_curves, position_curves
from whisper_gpt.jobs.reproduction.results import RowResult, row_results, scored_besides
from whisper_gpt.jobs.reproduction.rows import lacking, rows_of
from whisper_gpt.jobs.reproduction.schedule import Say, afford, run_all
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
    context: int = 512
    """Frames per window."""
    batch: int = 8
    """Windows per step."""
    precision: PrecisionChoice = "fp32"
    """Autocast precision of training; auto: bf16 on devices that compute in bfloat16, else fp32."""
    device: Device = "cpu"
    """Device of each trial; with cuda it takes one GPU."""
    compile: bool = False
    """Compile the models (torch.compile)."""
    threads: int = 1
    """CPU cores per trial."""
    workers: int | None = None
    """Number of trials that run in parallel on this machine; by default as many as its cores or GPUs allow. 0 runs them
    one after another in this process, without Ray."""
    ray_address: str | None = None
    """Address of a Ray cluster for the trials, as HOST:PORT or auto; by default $RAY_ADDRESS, else this machine."""


def run(config: Config) -> int:
    """Do the trials that are left, write table and figures → exit code 0."""
    _check(config)
    console = status_console()
    results, datasets = config.out.absolute(), [location(dataset) for dataset in config.datasets]
    domains = [_domain(dataset, config.rows) for dataset in datasets]
    search = Search(config.learning_rates, tuple(range(config.seeds)))
    refuse_dead_address(config.ray_address)
    with output_lock(results):
        with _places(config) as places:
            budget = _budget(config, domains, search, results, places, console.print)
            keep_plan(results, plan_of(domains, budget))
            save_config(config, results / "reproduce.yaml")
            run_all(domains, search, budget, results, config.workers != 0, console.print)
        _publish(domains, search, budget, results)
    console.print(f"{results / 'table.md'}: the table; table.json and the curves lie beside it")
    return 0


@contextmanager
def _places(config: Config) -> Iterator[int]:
    """Start or join Ray, and yield how many trials run side by side; 0 without Ray."""
    if config.workers == 0:
        yield 0
        return
    cores = config.workers and config.workers * config.threads
    with cluster(config.ray_address, cores, config.device) as places:
        most = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
        require(config.threads <= most, f"--threads {config.threads}: the largest machine has {most} cores")
        yield max(1, places // (1 if config.device == "cuda" else config.threads))


def _publish(domains: Sequence[Domain], search: Search, budget: Budget, results: Path) -> None:
    """Write the table and its pictures, of trials that are all done."""
    rows_by_domain = {domain.name: row_results(domain, search, results) for domain in domains}
    note = [*_note(domains, search, budget, results), *_at_edges(rows_by_domain, search)]
    publish_bytes(results / "table.json", (json.dumps(table_json(rows_by_domain, note), indent=1) + "\n").encode())
    for name, rows in rows_by_domain.items():
        for file, draw in zip(figure_names(name).values(), (learning_curves, position_curves), strict=True):
            publish_bytes(results / file, draw(name, rows))
    publish_bytes(results / "table.md", table_markdown(rows_by_domain, note).encode())


def _check(config: Config) -> None:
    require(bool(config.datasets), "name at least one dataset")
    names = [location(dataset).name for dataset in config.datasets]
    require(len(set(names)) == len(names), f"two datasets are called {', '.join(names)}; each names its table")
    require(
        (config.tokens is None) != (config.budget is None),
        "say how long each trial is: --tokens N, or --budget MINUTES",
    )
    least = {"tokens": 1, "seeds": 1, "context": 2, "batch": 1, "threads": 1}
    for name, bound in least.items():
        value = getattr(config, name)
        require(value is None or value >= bound, f"--{name} {value}: must be at least {bound}")
    require(config.budget is None or 0 < config.budget < math.inf, f"--budget {config.budget}: must be above zero")
    require(config.workers is None or config.workers >= 0, f"--workers {config.workers}: must not be negative")
    require(not (config.workers and config.ray_address), "--workers: a cluster runs as many trials as it has room for")
    rates = config.learning_rates
    require(bool(rates) and all(0 < rate < math.inf for rate in rates), "--learning-rates: at least one, above zero")
    require(len(set(rates)) == len(rates), "--learning-rates: each once")


def _domain(dataset: Location, rows: Sequence[str]) -> Domain:
    """A dataset with its rows. Raises `JobError` where one of the three splits is empty."""
    info = read_info(dataset)
    domain = Domain(dataset, info, rows_of(dataset.name, info, rows))
    for split in ("train", "validation", "test"):
        if split not in info.splits or not info.splits[split].samples:
            raise JobError(f"{dataset} has no {split} split; preprocess --hold-out makes one of whole speakers")
    return domain


def _budget(config: Config, domains: Sequence[Domain], search: Search, results: Path, places: int, say: Say) -> Budget:
    """The budget of all trials; with --budget in as many tokens as were planned before, or as the time allows here."""
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
        say(f"timing a few steps of each row, for a table in {config.budget:g} minutes")
        budget = replace(budget, tokens=afford(domains, search, budget, config.budget, places, results))
    say(f"{budget.tokens:,} tokens a trial, {budget.steps} steps of {budget.batch} windows of {budget.context}")
    return budget


def _at_edges(rows_by_domain: dict[str, list[RowResult]], search: Search) -> list[str]:
    """Which rows chose the lowest or the highest rate, so that one beyond it might have been better still."""
    edges = {min(search.learning_rates), max(search.learning_rates)}
    found = [
        f"{row.row} ({name}, {row.learning_rate:g})"
        for name, rows in rows_by_domain.items()
        for row in rows
        if row.learning_rate in edges
    ]
    return (
        [f"At an edge of the rates that were tried, and perhaps better beyond it: {', '.join(found)}."] if found else []
    )


def _note(domains: Sequence[Domain], search: Search, budget: Budget, results: Path) -> list[str]:
    """What the figures were measured on, for the legend."""
    rates, seeds = ", ".join(f"{rate:g}" for rate in search.learning_rates), ", ".join(map(str, search.seeds))
    tokens = budget.steps * budget.batch * budget.context
    lines = [
        f"Budget: {tokens:,} tokens a trial ({budget.steps} steps of {budget.batch} packed windows of {budget.context} "
        f"frames, {budget.precision}), the same windows in the same order for each row.",
        f"Learning rates {rates} tried with seed {search.seeds[0]}; the best on the validation split is trained with "
        f"seeds {seeds}. The test split is scored once, at the end.",
    ]
    for domain in domains:
        info = domain.info
        hours = ", ".join(f"{split} {totals.seconds / 3600:.2f} h" for split, totals in info.splits.items())
        codec = f"{info.codec['name']} (weights {info.codec['weights_sha256'][:12]}…)"
        lines.append(f"{domain.name}: corpus {info.corpus}, tokens of {codec}; {hours}.")
        if absent := lacking(info):
            how = "preprocess --mel-of both --leaky-control makes what they read"
            lines.append(f"{domain.name} does not allow the rows of {', '.join(absent)}: {how}.")
        if besides := scored_besides(domain, search, results):
            models = f"{besides} models of rates that are not chosen now"
            lines.append(f"{domain.name}: {models} were scored on the test split too, before the grid was widened.")
    return lines
