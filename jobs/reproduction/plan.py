"""The plan of a reproduction: which trials it has, where each lies, and `plan.json`, which keeps two tables apart.

Rows, rates, seeds and datasets may be added to a table later; budget, models, recipe and the content of a dataset
may not change.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.ngram_baselines import NGRAM_ORDERS
from whisper_gpt.jobs.reproduction.rows import Row
from whisper_gpt.jobs.reproduction.trials import Budget, Trial, recipe, require_trained
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.model.config import PRESETS


@dataclass(frozen=True)
class Domain:
    """A dataset and the rows that are trained on it."""

    dataset: Location
    info: DatasetInfo
    rows: list[Row]

    @property
    def name(self) -> str:
        """That of the dataset's folder."""
        return self.dataset.name

    @property
    def scored_frames(self) -> int:
        """Those of the two splits that are scored."""
        return self.info.splits["validation"].frames + self.info.splits["test"].frames


@dataclass(frozen=True)
class Search:
    """What each row gets: the same rates to choose from on the validation split, by the first seed, and the seeds."""

    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...]


def trial_of(results: Path, domain: Domain, row: Row, rate: float, seed: int) -> Trial:
    """The trial of a row at a rate from a seed, and its place."""
    folder = results / "trials" / domain.name / row.name / f"rate-{rate}-seed-{seed}"
    return Trial(domain.dataset, row, rate, seed, folder)


def chosen_trials(results: Path, domain: Domain, row: Row, search: Search) -> list[Trial]:
    """The trials of all seeds at the rate that was best on the validation split with the first one."""
    tried = [trial_of(results, domain, row, rate, search.seeds[0]) for rate in search.learning_rates]
    found = {trial: nats for trial in tried if (nats := require_trained(trial).nats) is not None}
    if not found:
        raise JobError(f"{row.name} on {domain.name}: diverged at every learning rate; give lower --learning-rates")
    best = min(found, key=lambda trial: found[trial])
    return [trial_of(results, domain, row, best.learning_rate, seed) for seed in search.seeds]


def ngram_folders(results: Path, domain: Domain) -> dict[str, Path]:
    """Where the scores of each floor of a domain lie."""
    return {name: results / "trials" / domain.name / name for name in NGRAM_ORDERS}


_FILE_NAME = "plan.json"
_FREE = ("threads",)  # of a budget: what is computed does not hang on it


def plan_of(domains: Sequence[Domain], budget: Budget) -> dict[str, Any]:
    """The plan of a table, as JSON holds it."""
    return {
        "dataset": {one.name: [one.info.fingerprint, *one.info.plans_sha256] for one in domains},
        "model": {name: asdict(shape) for name, shape in PRESETS.items()},
        "recipe": recipe(),
        **{name: value for name, value in asdict(budget).items() if name not in _FREE},
    }


def planned_tokens(results: Path) -> int | None:
    """Tokens a trial of the table that was begun in `results`; None where none was."""
    found = _read(results)
    return None if found is None else int(found["tokens"])


def keep_plan(results: Path, plan: dict[str, Any]) -> None:
    """Write the plan of a new table, or add to one that was begun. Raises `JobError` where that is another table."""
    begun = _read(results) or {}
    if differences := _differences(begun, plan):
        raise JobError(f"{results} holds another table: {', '.join(differences)}; use another --out")
    merged = plan | {"dataset": begun.get("dataset", {}) | plan["dataset"]}
    publish_bytes(results / _FILE_NAME, (json.dumps(merged, indent=1) + "\n").encode())


def _read(results: Path) -> dict[str, Any] | None:
    """The plan in `results`; None where no trial has been begun yet: then it binds nobody."""
    path = results / _FILE_NAME
    if not path.is_file() or not (results / "trials").is_dir():
        return None
    return json.loads(path.read_text(encoding="utf-8"))


def _differences(begun: dict[str, Any], plan: dict[str, Any]) -> list[str]:
    """In words, what both have and what is not the same in them."""
    found = []
    for name in begun.keys() & plan.keys():
        was, now = begun[name], plan[name]
        if isinstance(now, dict):
            found += [f"{name} {key} has changed" for key in was.keys() & now.keys() if was[key] != now[key]]
        elif was != now:
            found.append(f"{name} was {was}, now {now}")
    return sorted(found)
