"""Train every row of the paper's table under one budget, on each dataset, and write the table with its intervals.

A rerun resumes: trials that are finished are not repeated.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.config_files import save_config
from whisper_gpt.jobs.common.errors import require
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.common.ray_cluster import refuse_dead_address
from whisper_gpt.jobs.reproduction.measures import BITS_PER_S, NLL, Measure
from whisper_gpt.jobs.reproduction.options import TrialOptions, check_trials, places, require_splits
from whisper_gpt.jobs.reproduction.plan import Domain, Search, keep_plan, plan_of, planned_tokens
from whisper_gpt.jobs.reproduction.plots import learning_curves, position_curves
from whisper_gpt.jobs.reproduction.results import at_edges, count_no_longer_chosen, row_results
from whisper_gpt.jobs.reproduction.rows import lacking, rows_of
from whisper_gpt.jobs.reproduction.schedule import Log, afford, run_all
from whisper_gpt.jobs.reproduction.table import figure_names, table_json, table_markdown
from whisper_gpt.jobs.reproduction.trials import Budget
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import Location, location
from whisper_gpt.manifests.publish import publish_bytes


@dataclass(frozen=True)
class Config(TrialOptions):
    """Options of `whisper-gpt reproduce`."""

    datasets: Positional[tuple[UPath, ...]]
    """Datasets; each gets its own table, named after its folder (names with speech or music also show the paper's
    figures). They need the mel variants that the rows read: preprocess --mel-of both --leaky-control."""
    tokens: int | None = None
    """Training tokens per trial, whatever the model. Pass either --tokens or --budget."""
    budget: float | None = None
    """Minutes that all trials may take on these machines; timing a few steps of each row turns them into tokens."""
    rows: tuple[str, ...] = ()
    """Rows to train and to show, such as gpt-4m hybrid-4m; by default all that the datasets allow."""
    all_codebooks: bool = False
    """Compare models of all codebooks (with a depth decoder, the delay and the flat pattern) in bits per second of
    audio, instead of the paper's rows, which predict codebook 0."""


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
    search = config.search
    refuse_dead_address(config.ray_address)
    with output_lock(results):
        with places(config) as slots:
            budget = _budget(config, domains, search, results, slots, console.print)
            keep_plan(results, plan_of(domains, budget))
            save_config(config, results / "reproduce.yaml")
            run_all(domains, search, budget, results, config.workers != 0, console.print)
        _publish(domains, search, budget, results)
    console.print(f"{results / 'table.md'}: the table; table.json and the plots are in the same folder")
    return 0


def _publish(domains: Sequence[Domain], search: Search, budget: Budget, results: Path) -> None:
    """Write the table and its plots, once all trials are done."""
    measure = domains[0].measure
    rows_by_domain = {domain.name: row_results(domain, search, results) for domain in domains}
    note = [*_note(domains, search, budget, results), *at_edges(rows_by_domain, search)]
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
    require(config.tokens is None or config.tokens >= 1, f"--tokens {config.tokens}: must be at least 1")
    require(config.budget is None or 0 < config.budget < math.inf, f"--budget {config.budget}: must be above zero")
    check_trials(config)


def _domain(dataset: Location, rows: Sequence[str], measure: Measure) -> Domain:
    info = read_info(dataset)
    require_splits(dataset, info)
    return Domain(dataset.name, dataset, info, rows_of(dataset.name, info, rows, measure), measure)


def _budget(config: Config, domains: Sequence[Domain], search: Search, results: Path, slots: int, log: Log) -> Budget:
    """Return the budget of all trials; with --budget, its tokens are those planned before, or what the time allows."""
    budget = config.budget_of(config.tokens or planned_tokens(results) or 0)
    if config.budget and not budget.tokens:
        log(f"timing a few steps of each row, for a table in {config.budget:g} minutes")
        budget = replace(budget, tokens=afford(domains, search, budget, config.budget, slots, results))
    log(f"{budget.tokens:,} tokens per trial, {budget.steps} steps of {budget.batch} windows of {budget.context}")
    return budget


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
        codec = f"{info.codec['name']} (weights {info.codec['weights_sha256'][:12]}…)"
        lines.append(f"{domain.name}: corpus {info.corpus}, tokens of {codec}; {info.hours}.")
        if missing := lacking(info, domain.measure):
            lines.append(f"{domain.name} does not allow the rows of {', '.join(missing)}: {domain.measure.remedy}.")
        if count := count_no_longer_chosen(domain, search, results):
            models = f"{count} models with rates that are no longer chosen"
            lines.append(f"{domain.name}: {models} were also scored on the test split, before the grid was widened.")
    return lines
