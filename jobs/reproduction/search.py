"""What is looked for, each row's best rate and then its other seeds, and where in the results' folder it lies."""

from dataclasses import dataclass
from pathlib import Path

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.ngram_baselines import FLOORS
from whisper_gpt.jobs.reproduction.rows import Row
from whisper_gpt.jobs.reproduction.trials import Trial, require_trained
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.location import Location


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


def floor_folders(results: Path, domain: Domain) -> dict[str, Path]:
    """Where the scores of each floor of a domain lie."""
    return {name: results / "trials" / domain.name / name for name in FLOORS}
