"""Answer one of the open questions about hybrid models, on your corpora: make the datasets, train, score, report.

mel: which bands and window help. vocabulary: how the codec's codebooks matter. domain: transfer between two corpora,
and to others. noise: degraded audio. scale: models of 1 to 40 million parameters. resampler: a causal one instead
of the usual one. Datasets, trials and report are kept in --out, and a rerun resumes.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml
from tyro.conf import Positional

from whisper_gpt.jobs import preprocess
from whisper_gpt.jobs.common.config_files import save_config
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.common.ray_cluster import refuse_dead_address
from whisper_gpt.jobs.preprocessing.options import check, source_root
from whisper_gpt.jobs.reproduction.measures import STUDIED_BITS, STUDIED_NLL
from whisper_gpt.jobs.reproduction.options import TrialOptions, check_trials, places, require_splits
from whisper_gpt.jobs.reproduction.plan import keep_plan, plan_of
from whisper_gpt.jobs.reproduction.results import RowResult, at_edges
from whisper_gpt.jobs.reproduction.schedule import run_all
from whisper_gpt.jobs.reproduction.trials import Budget
from whisper_gpt.jobs.studies import recipes
from whisper_gpt.jobs.studies.design import Cell, Corpus, Study, dataset_options, parse_codecs, parse_corpora
from whisper_gpt.jobs.studies.rate_distortion import (
    FRONTIER,
    codec_point,
    frontier_markdown,
    frontier_picture,
)
from whisper_gpt.jobs.studies.report import PICTURE, picture, report_json, report_markdown
from whisper_gpt.jobs.studies.results import cell_results, compared, domain_of
from whisper_gpt.jobs.studies.scaling import SCALING, fits, gains, scaling_json, scaling_markdown, scaling_picture
from whisper_gpt.manifests.dataset_info import DatasetInfo, read_info
from whisper_gpt.manifests.location import Location, location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.files import OFFICIAL_NAME, weights_file
from whisper_gpt.pipeline.codec.loading import read_codec

_OPTIONS_FILE = "study.yaml"

Name = Literal["mel", "vocabulary", "domain", "noise", "scale", "resampler"]
_DESIGNS: dict[str, Callable[[Sequence[Corpus]], Study]] = {
    "mel": recipes.mel,
    "domain": recipes.domain,
    "noise": recipes.noise,
    "scale": recipes.scale,
    "resampler": recipes.resampler,
}


@dataclass(frozen=True)
class Config(TrialOptions):
    """Options of `whisper-gpt study`."""

    study: Positional[Name]
    """The question."""
    corpora: Positional[tuple[str, ...]]
    """Corpora as LAYOUT=FOLDER, such as librispeech=/data/LibriSpeech; each is named after its folder. domain trains on
    the first two and only tests on the others; the other studies repeat the question for each."""
    tokens: int
    """Training tokens per trial, whatever the model; scale also trains for a third and a ninth of them."""
    codec: str = OFFICIAL_NAME
    """Codec of all datasets, as in preprocess."""
    codec_weights: Path | None = None
    """File with the official codec's weights, as in preprocess."""
    codecs: tuple[str, ...] = ()
    """For vocabulary: the codecs to compare, such as files written by train-codec --codebook-size; CODEC:K keeps K
    codebooks instead of 8."""
    hold_out: tuple[float, float] = (0.0, 0.0)
    """Shares of LibriSpeech's training speakers moved to validation and test, as in preprocess."""


def run(config: Config) -> int:
    """Make the missing datasets, run the remaining trials, write the report; return exit code 0."""
    check_trials(config)
    require(config.tokens >= 1, f"--tokens {config.tokens}: must be at least 1")
    require(bool(config.corpora), "name at least one corpus, as LAYOUT=FOLDER")
    budget = config.budget_of(config.tokens)
    least_tokens = max(recipes.DIVISORS) * config.batch * config.context
    enough = config.study != "scale" or config.tokens >= least_tokens
    require(enough, f"study scale needs at least --tokens {least_tokens}, so that a ninth of them is a step")
    codecs = parse_codecs(config.codecs)
    wanted = len(codecs) >= 2 if config.study == "vocabulary" else not codecs
    require(wanted, "study vocabulary needs at least two --codecs; the other studies do not take it")
    refuse_dead_address(config.ray_address)
    corpora, console, results = parse_corpora(config.corpora), status_console(), config.out.absolute()
    study = recipes.vocabulary(corpora, codecs) if codecs else _DESIGNS[config.study](corpora)
    measure = STUDIED_BITS if study.all_codebooks else STUDIED_NLL
    with output_lock(results):
        _keep_options(config, results)
        makers = _makers(config, study, results)
        datasets = _make(makers)
        infos = {name: read_info(dataset) for name, dataset in datasets.items()}
        _check(study, datasets, infos)
        domains = [domain_of(training, datasets, infos, measure) for training in study.trainings]
        with places(config):
            keep_plan(results, plan_of(domains, budget))
            run_all(domains, config.search, budget, results, config.workers != 0, console.print)
        cells = cell_results(study, domains, datasets, config.search, results)
        outcomes, notes = compared(study, cells), _notes(config, study, infos, budget)
        if len(config.learning_rates) > 1:
            by_training = {
                training.name: [cells[Cell(training.name, row, training.tests[0])] for row in training.rows]
                for training in study.trainings
            }
            notes += at_edges(by_training, config.search)
        own = _own_part(config, study, makers, datasets, cells, budget)
        content = report_json(study, cells, outcomes, notes, measure) | own.content
        publish_bytes(results / "study.json", (json.dumps(content, indent=1) + "\n").encode())
        publish_bytes(results / PICTURE, picture(cells, measure))
        for name, png in own.pictures.items():
            publish_bytes(results / name, png)
        markdown = report_markdown(study, cells, outcomes, notes, measure, own.section)
        publish_bytes(results / "study.md", markdown.encode())
    console.print(f"{results / 'study.md'}: the answers; study.json and {PICTURE} are in the same folder")
    return 0


def _keep_options(config: Config, results: Path) -> None:
    """Keep the options in `results`. Raises `JobError` if another study is there already."""
    path = results / _OPTIONS_FILE
    begun = yaml.safe_load(path.read_text(encoding="utf-8"))["study"] if path.is_file() else config.study
    if begun != config.study:
        raise JobError(f"{results} holds the study {begun}; pass another --out")
    save_config(config, path)


def _makers(config: Config, study: Study, results: Path) -> dict[str, preprocess.Config]:
    """Return the options of `preprocess` for each dataset. Raises an error of the user's if a corpus or a codec is
    missing, before any work."""
    common = {
        "codec": config.codec,
        "hold_out": config.hold_out,
        "device": config.device,
        "workers": config.workers,
        "ray_address": config.ray_address,
    }
    makers = {}
    for made in study.made:
        maker = preprocess.Config(**dataset_options(made, results / "datasets", common))
        if maker.codec == OFFICIAL_NAME:
            maker = replace(maker, codec_weights=config.codec_weights)
        check(maker)
        source_root(maker)
        weights_file(maker.codec, maker.codec_weights)
        makers[made.name] = maker
    return makers


def _make(makers: Mapping[str, preprocess.Config]) -> dict[str, Location]:
    """Make the study's datasets, or what is missing of them; return them by name."""
    datasets = {}
    for name, maker in makers.items():
        if preprocess.run(maker):
            raise JobError(f"{maker.out}: more of {maker.source} failed than a study should ignore")
        datasets[name] = location(maker.out)
    return datasets


def _check(study: Study, datasets: Mapping[str, Location], infos: Mapping[str, DatasetInfo]) -> None:
    """Raise `JobError` if a dataset lacks a split that the study needs."""
    for training in study.trainings:
        for name in training.datasets:
            require_splits(datasets[name], infos[name])
        for name in training.tests:
            if "test" not in infos[name].splits:
                raise JobError(f"{datasets[name]} has no test split")


@dataclass(frozen=True)
class _OwnPart:
    """What only one study has in its report: content of study.json, a section of study.md, and PNGs by name."""

    content: dict[str, Any] = field(default_factory=dict)
    section: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)


def _own_part(
    config: Config,
    study: Study,
    makers: Mapping[str, preprocess.Config],
    datasets: Mapping[str, Location],
    cells: Mapping[Cell, RowResult],
    budget: Budget,
) -> _OwnPart:
    if config.study == "vocabulary":
        points = [
            codec_point(datasets[name], source_root(maker), _codec_of(maker), cells) for name, maker in makers.items()
        ]
        content = {"codecs": [asdict(point) for point in points]}
        return _OwnPart(content, frontier_markdown(points), {FRONTIER: frontier_picture(points)})
    if config.study == "scale":
        found = gains(study, cells, budget)
        fitted = fits(found)
        return _OwnPart(scaling_json(found, fitted), scaling_markdown(fitted), {SCALING: scaling_picture(found)})
    return _OwnPart()


def _codec_of(maker: preprocess.Config) -> Codec:
    return read_codec(weights_file(maker.codec, maker.codec_weights), maker.codebooks)


def _notes(config: Config, study: Study, infos: Mapping[str, DatasetInfo], budget: Budget) -> list[str]:
    """Return the notes on budget, search and data."""
    rates = ", ".join(f"{rate:g}" for rate in config.learning_rates)
    divisors = sorted({training.divisor for training in study.trainings})
    tokens = ", ".join(f"{budget.tokens_of(n):,}" for n in divisors)
    steps = ", ".join(str(budget.steps_of(n)) for n in divisors)
    search = f"learning rate {rates}" if len(config.learning_rates) == 1 else f"the best of the learning rates {rates}"
    notes = [
        f"{tokens} tokens per trial ({steps} steps of {config.batch} windows of {config.context} frames), {search}, "
        f"seeds {', '.join(map(str, config.search.seeds))}. The test splits are scored once, at the end."
    ]
    made: dict[str, list[str]] = {}
    for name, info in infos.items():
        codec = f"{info.codec['codebooks']} codebooks of {info.codec['name']} ({info.codec['weights_sha256'][:12]}…)"
        mel = f"mel of {info.mel['bands']} bands, window {info.mel['window_samples']}, floor {info.mel['floor']:g}"
        made.setdefault(f"{codec}; {mel}", []).append(f"{name} ({info.hours})")
    notes += [f"Tokens: {how}: {', '.join(datasets)}." for how, datasets in made.items()]
    return notes
