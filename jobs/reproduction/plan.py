"""The plan of a reproduction: its trials and their folders, and `plan.json`, which prevents mixing two tables.

Rows, rates, seeds and datasets may be added to a table later; budget, models, recipe and the content of a dataset must
not change.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.ngram_baselines import NGRAM_ORDERS
from whisper_gpt.jobs.reproduction.measures import NLL, Measure
from whisper_gpt.jobs.reproduction.rows import Row
from whisper_gpt.jobs.reproduction.trials import Budget, Trial, recipe, require_trained
from whisper_gpt.manifests.dataset_info import DatasetInfo, read_info
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.model.config import PRESETS


@dataclass(frozen=True)
class Domain:
    """Rows, what they are trained on, the measure that compares them, and the datasets whose test splits score them.

    Training and validation use `dataset`, or an equal mixture of it and `others`; `info` is that of `dataset`. Trials
    take the budget's tokens divided by `divisor`. `name` is that of its folder in the results.
    """

    name: str
    dataset: Location
    info: DatasetInfo
    rows: list[Row]
    measure: Measure = NLL
    others: tuple[Location, ...] = ()
    tests: tuple[Location, ...] = ()  # by default `dataset`
    divisor: int = 1

    @property
    def trained_on(self) -> tuple[Location, ...]:
        """The datasets to train on."""
        return (self.dataset, *self.others)

    @property
    def scored(self) -> tuple[Location, ...]:
        """The datasets whose test split is scored."""
        return self.tests or (self.dataset,)

    @property
    def scored_frames(self) -> int:
        """Frames of the two splits that are scored, validation and test."""
        return self.info.splits["validation"].frames + self.info.splits["test"].frames


@dataclass(frozen=True)
class Search:
    """The search for each row: learning rates, chosen by validation NLL with the first seed; and the seeds to train."""

    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]


def trial_of(results: Path, domain: Domain, row: Row, rate: float, seed: int) -> Trial:
    """Return the trial of a row at a rate with a seed, and its folder."""
    folder = results / "trials" / domain.name / row.name / f"rate-{rate}-seed-{seed}"
    return Trial(domain.trained_on, row, rate, seed, folder, domain.divisor)


def chosen_trials(results: Path, domain: Domain, row: Row, search: Search) -> list[Trial]:
    """Return the trials of all seeds at the rate with the best validation NLL for the first seed."""
    tried = [trial_of(results, domain, row, rate, search.seeds[0]) for rate in search.learning_rates]
    nats_of = {trial: nats for trial in tried if (nats := require_trained(trial).nats) is not None}
    if not nats_of:
        raise JobError(f"{row.name} on {domain.name}: diverged at every learning rate; pass lower --learning-rates")
    best = min(nats_of, key=lambda trial: nats_of[trial])
    return [trial_of(results, domain, row, best.learning_rate, seed) for seed in search.seeds]


def ngram_folders(results: Path, domain: Domain) -> dict[str, Path]:
    """Return the folder of each n-gram baseline's scores; none if the table has no such rows."""
    if not domain.measure.ngrams:
        return {}
    return {name: results / "trials" / domain.name / name for name in NGRAM_ORDERS}


_FILE_NAME = "plan.json"
_FREE = ("threads",)  # fields of a budget that do not affect the results


def plan_of(domains: Sequence[Domain], budget: Budget) -> dict[str, Any]:
    """Return the plan of a table, for JSON."""
    datasets = {dataset for domain in domains for dataset in (*domain.trained_on, *domain.scored)}
    infos = {dataset.name: read_info(dataset) for dataset in sorted(datasets, key=str)}
    return {
        "dataset": {name: [info.fingerprint, *info.plans_sha256] for name, info in infos.items()},
        "training": {
            domain.name: [*(dataset.name for dataset in domain.trained_on), domain.divisor] for domain in domains
        },
        "model": {name: asdict(shape) for name, shape in PRESETS.items()},
        "recipe": recipe(),
        "measure": domains[0].measure.name,
        **{name: value for name, value in asdict(budget).items() if name not in _FREE},
    }


def planned_tokens(results: Path) -> int | None:
    """Return the tokens per trial of the table begun in `results`; None if there is none."""
    plan = _read(results)
    return None if plan is None else int(plan["tokens"])


def keep_plan(results: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new table, or extend that of a begun one. Raises `JobError` if that is another table."""
    begun = _read(results) or {}
    if differences := _differences(begun, plan):
        raise JobError(f"{results} holds another table: {', '.join(differences)}; pass another --out")
    merged = plan | {name: begun.get(name, {}) | plan[name] for name in ("dataset", "training")}
    publish_bytes(results / _FILE_NAME, (json.dumps(merged, indent=1) + "\n").encode())


def _read(results: Path) -> dict[str, Any] | None:
    """Read the plan in `results`; None if no trial has begun, as it may still change then."""
    path = results / _FILE_NAME
    if not path.is_file() or not (results / "trials").is_dir():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _differences(begun: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """Describe the entries that both plans have and that differ."""
    differences = []
    for name in begun.keys() & plan.keys():
        was, now = begun[name], plan[name]
        if isinstance(now, dict):
            differences += [f"{name} {key} has changed" for key in was.keys() & now.keys() if was[key] != now[key]]
        elif was != now:
            differences.append(f"{name} was {was}, now {now}")
    return sorted(differences)
