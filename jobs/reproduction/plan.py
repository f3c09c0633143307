"""What makes the trials of a results folder one table, in its `plan.json`: a rerun does not mix two tables.

Rows, rates, seeds and datasets may be added later; budget, models, recipe and a dataset's content stay what they were.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.reproduction.search import Domain
from whisper_gpt.jobs.reproduction.trials import Budget, recipe
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.model.config import PRESETS

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
