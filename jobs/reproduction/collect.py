"""What was trained and scored, put together to the rows of a domain's table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.ngram_baselines import FLOORS
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.rows import Row
from whisper_gpt.jobs.reproduction.scores import Scores, groups_of, read_scores, require_scores
from whisper_gpt.jobs.reproduction.search import Domain, Search, chosen_trials, floor_folders
from whisper_gpt.jobs.reproduction.trials import Trial, require_trained


def row_results(domain: Domain, search: Search, results: Path) -> list[RowResult]:
    """The results of the floors and all rows of a domain, once all is done. Raises `JobError` where they are of other
    tokens, as when the dataset was made anew meanwhile."""
    groups = groups_of(domain.dataset)
    floors = floor_folders(results, domain)
    found = [_floor_result(name, folder, domain, groups) for name, folder in floors.items()]
    found += [_row_result(row, chosen_trials(results, domain, row, search), groups) for row in domain.rows]
    for row in found[1:]:
        if not np.array_equal(row.tokens, found[0].tokens):
            rows = f"{row.row} and {found[0].row}"
            raise JobError(f"{results}: {rows} were scored on other tokens of {domain.name}; use another --out")
    return found


def scored_besides(domain: Domain, search: Search, results: Path) -> int:
    """How many models of a domain were scored on the test split at a rate that is not the chosen one any more."""
    chosen = {trial.folder for row in domain.rows for trial in chosen_trials(results, domain, row, search)}
    return sum(
        read_scores(path.parent) is not None
        for row in domain.rows
        for path in (results / "trials" / domain.name / row.name).glob("*/trial.json")
        if path.parent not in chosen
    )


def _row_result(row: Row, trials: Sequence[Trial], groups: dict[str, str]) -> RowResult:
    found, scores = [require_trained(trial) for trial in trials], [require_scores(trial.folder) for trial in trials]
    return RowResult(
        row=row.name,
        tag=row.tag,
        description=row.description,
        parameters=found[0].parameters,
        flops_per_token=found[0].flops_per_token,
        learning_rate=trials[0].learning_rate,
        tokens_trained=found[0].tokens,
        wall_s=sum(one.wall_s for one in found) / len(found),
        seeds=tuple(trial.seed for trial in trials),
        curves=tuple(tuple(one.curve) for one in found),
        **_sums(scores, groups),
    )


def _floor_result(name: str, folder: Path, domain: Domain, groups: dict[str, str]) -> RowResult:
    scores = require_scores(folder)
    return RowResult(
        row=name,
        tag="floor",
        description=f"counts, order {FLOORS[name]}",
        parameters=scores.parameters,
        flops_per_token=0.0,
        learning_rate=None,
        tokens_trained=domain.info.splits["train"].frames,
        wall_s=0.0,
        seeds=(0,),
        curves=(),
        **_sums([scores], groups),
    )


def _sums(scores: Sequence[Scores], groups: dict[str, str]) -> dict[str, Any]:
    """Of each group of recordings, by seed. Raises `JobError` where other recordings than `groups` has were scored."""
    recordings = scores[0].recordings
    if any(set(one.recordings) != set(groups) or one.recordings != recordings for one in scores):
        raise JobError("trials were scored on other recordings than the dataset holds; use another --out")
    names, group_of = np.unique([groups[recording] for recording in recordings], return_inverse=True)

    def by_group(values: Sequence[float]) -> np.ndarray:
        return np.bincount(group_of, weights=values)  # exact for counts: they are whole numbers in float64

    return {
        "groups": tuple(names.tolist()),
        "recordings": len(recordings),
        "tokens": by_group(scores[0].tokens).astype(np.int64),
        "nats": np.array([by_group(one.nats) for one in scores]),
        "hits": np.array([by_group(one.hits) for one in scores]).astype(np.int64),
        "position_nats": np.sum([one.position_nats for one in scores], axis=0),
        "position_tokens": np.sum([one.position_tokens for one in scores], axis=0),
    }
