"""The results of a study: each cell's scores, and its comparisons."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from whisper_gpt.jobs.common.bootstrap import holm
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.reproduction.contrasts import verdict
from whisper_gpt.jobs.reproduction.measures import Measure
from whisper_gpt.jobs.reproduction.plan import Domain, Search
from whisper_gpt.jobs.reproduction.results import RowResult, groups_of, row_result
from whisper_gpt.jobs.reproduction.rows import Row
from whisper_gpt.jobs.reproduction.statistics import Difference, change_of_difference, difference
from whisper_gpt.jobs.studies.design import Cell, Comparison, Study, Training
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.location import Location
from whisper_gpt.model.config import PRESETS
from whisper_gpt.pipeline.features.mel_config import AUDIO


@dataclass(frozen=True)
class Compared:
    """A comparison and its outcome."""

    comparison: Comparison
    difference: Difference

    @property
    def verdict(self) -> str:
        """The direction of the difference, if interval, test and all seeds agree on it."""
        found = verdict(self.difference)
        if found in ("lower", "higher") and len({delta < 0 for delta in self.difference.by_seed}) > 1:
            return "no difference that these seeds agree on"
        return found


def domain_of(
    training: Training, datasets: Mapping[str, Location], infos: Mapping[str, DatasetInfo], measure: Measure
) -> Domain:
    """Return what a training set's rows are trained on and scored on."""
    first, *others = training.datasets
    return Domain(
        name=training.name,
        dataset=datasets[first],
        info=infos[first],
        rows=[_row(name, infos[first]) for name in training.rows],
        measure=measure,
        others=tuple(datasets[name] for name in others),
        tests=tuple(datasets[name] for name in training.tests),
        divisor=training.divisor,
    )


def cell_results(
    study: Study, domains: Sequence[Domain], datasets: Mapping[str, Location], search: Search, results: Path
) -> dict[Cell, RowResult]:
    """Return the scores of every cell; all must be done."""
    groups = {name: groups_of(datasets[name]) for training in study.trainings for name in training.tests}
    domain_named = {domain.name: domain for domain in domains}
    row_named = {(domain.name, row.name): row for domain in domains for row in domain.rows}
    return {
        cell: row_result(
            domain_named[cell.training],
            row_named[cell.training, cell.row],
            search,
            results,
            datasets[cell.test],
            groups[cell.test],
        )
        for cell in study.cells()
    }


def compared(study: Study, cells: Mapping[Cell, RowResult]) -> list[Compared]:
    """Return the outcome of every comparison; p is corrected for their number. Raises `JobError` if two cells were not
    scored on the same recordings."""
    outcomes: list[Difference] = []
    for comparison in study.comparisons:
        of, base = cells[comparison.of], cells[comparison.base]
        try:
            if comparison.less:
                outcomes.append(change_of_difference(of, base, *(cells[cell] for cell in comparison.less)))
            else:
                outcomes.append(difference(of, base))
        except ValueError as error:
            raise JobError(
                f"{comparison.text}: {error}; some may have failed in one dataset only: see whisper-gpt inspect"
            ) from error
    corrected = holm([outcome.p for outcome in outcomes])
    return [
        Compared(comparison, outcome._replace(p=p))
        for comparison, outcome, p in zip(study.comparisons, outcomes, corrected, strict=True)
    ]


def _row(name: str, info: DatasetInfo) -> Row:
    """Return a preset as a row; a hybrid reads the mel of the audio, or of the codes if it predicts all of them."""
    preset = PRESETS[name]
    count, variant = 1, AUDIO
    if preset.output_codebooks > 1:
        count = info.codec["codebooks"]
        variant = f"codes-{count}"
    if not preset.hybrid:
        return Row(name, "", "tokens", name, None, count, count)
    return Row(name, "", "tokens and mel", name, variant, count, count)
