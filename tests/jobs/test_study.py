"""Studies end to end on synthetic audio: what they make, train and say; reruns, and refusals."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers import error_line
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.bootstrap import Interval
from whisper_gpt.jobs.preprocessing.options import DatasetOptions, check
from whisper_gpt.jobs.reproduction.statistics import Difference
from whisper_gpt.jobs.studies import recipes
from whisper_gpt.jobs.studies.design import (
    Cell,
    Comparison,
    Corpus,
    Study,
    dataset_options,
    parse_codecs,
    parse_corpora,
)
from whisper_gpt.jobs.studies.results import Compared
from whisper_gpt.jobs.studies.scaling import Gain, fits
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.model.config import PRESETS
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture, build_network, seed_weights
from whisper_gpt.pipeline.codec.weights import save_weights

pytestmark = pytest.mark.usefixtures("tiny_presets")

FAST = ["--tokens=128", "--seeds=2", "--learning-rates=1e-3", "--context=32", "--batch=2", "--workers=0"]


def study(name: str, out: Path, *words: str) -> dict:
    """Run a study, and return its report."""
    arguments = ["study", name, *FAST, "--out", str(out), *words]
    assert cli.main([*arguments, "--codec=encodec_24khz_small", "--hold-out", "0.3", "0.3"]) == 0
    markdown = (out / "study.md").read_text()
    report = json.loads((out / "study.json").read_text())
    assert all(comparison["text"] in markdown for comparison in report["comparisons"])
    assert (out / "study.png").read_bytes().startswith(b"\x89PNG")
    return report


def speech(corpora: Path) -> str:
    return f"librispeech={corpora / 'LibriSpeech'}"


def test_resampler_study_compares_the_gains(synthetic_corpora: Path, tmp_path: Path) -> None:
    report = study("resampler", tmp_path, speech(synthetic_corpora))
    assert {(score["training"], score["row"]) for score in report["scores"]} == {
        (dataset, row) for dataset in ("LibriSpeech", "LibriSpeech-causal") for row in ("gpt-4m", "hybrid-4m")
    }
    linear, causal, change = report["comparisons"]
    assert change["delta"] == pytest.approx(causal["delta"] - linear["delta"], abs=1e-9)
    assert len(change["by_seed"]) == 2 and change["interval"][0] <= change["delta"] <= change["interval"][1]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("t*.json")}
    assert study("resampler", tmp_path, speech(synthetic_corpora)) == report
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("t*.json")} == before


def test_noise_study_scores_one_model_on_every_degradation(synthetic_corpora: Path, tmp_path: Path) -> None:
    report = study("noise", tmp_path, speech(synthetic_corpora), "--seeds=1")
    trainings = {"LibriSpeech", "LibriSpeech-clean-and-degraded"}
    assert {score["training"] for score in report["scores"]} == trainings
    tests = {score["test"] for score in report["scores"]}
    assert len(tests) == 8 and "LibriSpeech-noise-10" in tests
    assert len(list(tmp_path.glob("trials/**/trial.json"))) == 4  # two trainings, two rows
    nll = {(score["training"], score["test"], score["row"]): score["nll"] for score in report["scores"]}
    assert len(set(nll.values())) == len(nll)
    infos = [read_info(folder) for folder in sorted((tmp_path / "datasets").iterdir())]
    assert len({info.splits["test"].frames for info in infos}) == 1


def test_domain_study_trains_on_two_corpora_and_on_both(synthetic_corpora: Path, tmp_path: Path) -> None:
    report = study("domain", tmp_path, speech(synthetic_corpora), f"maestro={synthetic_corpora}")
    music = synthetic_corpora.name
    both = f"LibriSpeech+{music}"
    assert {(score["training"], score["test"]) for score in report["scores"]} == {
        (training, test) for training in ("LibriSpeech", music, both) for test in ("LibriSpeech", music)
    }
    assert (tmp_path / "trials" / both / "gpt-4m").is_dir()


def test_scale_study_has_a_hybrid_of_each_size(
    synthetic_corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size, width in {"1m": 16, "4m": 32, "12m": 48, "40m": 64}.items():
        for name in (f"gpt-{size}", f"hybrid-{size}"):
            monkeypatch.setitem(PRESETS, name, replace(PRESETS[name], width=width))
    report = study("scale", tmp_path, speech(synthetic_corpora), "--tokens=576", "--seeds=1")
    assert len(report["scores"]) == 2 * (4 + 4 + 3)
    assert len(report["comparisons"]) == 11 + 4 + 3 + 3 + 1
    assert {gain["tokens"] for gain in report["gains"]} == {576, 192, 64}
    (fit,) = report["fits"]
    low, high = fit["per_tenfold_tokens"]["interval"]
    assert -math.inf < low < fit["per_tenfold_tokens"]["value"] < high
    assert list(fit["predictions"]) == [
        "4000000",
        "40000000",
    ]
    assert "## Scaling" in (tmp_path / "study.md").read_text() and (tmp_path / "scaling.png").is_file()


def test_scaling_fit_finds_the_slopes_and_widens_beyond_the_trials() -> None:
    def gain(parameters: int, tokens: int) -> Gain:
        delta = -0.3 + 0.1 * math.log10(parameters * tokens)
        return Gain("speech", parameters, tokens, delta + (0.01 if tokens == 3 * 10**5 else -0.005))

    points = [gain(parameters, tokens) for parameters in (10**6, 10**7) for tokens in (10**5, 3 * 10**5, 9 * 10**5)]
    (fit,) = fits(points)
    assert fit.per_tenfold_parameters.value == pytest.approx(0.1, abs=1e-3)
    assert fit.per_tenfold_tokens.value == pytest.approx(0.1, abs=1e-3)
    predicted = fit.predictions[4_000_000]
    assert predicted.value == pytest.approx(-0.3 + 0.1 * math.log10(4e6 * 259.2e6), abs=1e-3)
    assert predicted.value - predicted.interval.low == pytest.approx(predicted.interval.high - predicted.value)
    slope_margin = fit.per_tenfold_tokens.interval.high - fit.per_tenfold_tokens.value
    assert predicted.interval.high - predicted.value > 2 * slope_margin  # more than two tenfolds beyond the trials


def test_vocabulary_study_compares_codecs_in_bits_per_second(synthetic_corpora: Path, tmp_path: Path) -> None:
    net = build_network(CodecArchitecture(width=4, latent=16, codebooks=8, codebook_size=64))
    seed_weights(net, seed=0)
    save_weights(tmp_path / "of_64.safetensors", "of_64", net)
    codecs = ["--codecs", "encodec_24khz_small:2", str(tmp_path / "of_64.safetensors")]
    report = study("vocabulary", tmp_path, speech(synthetic_corpora), *codecs, "--seeds=1")
    assert report["measure"] == "bits/s"
    assert {score["training"] for score in report["scores"]} == {
        "LibriSpeech-encodec_24khz_small-2",
        "LibriSpeech-of_64-8",
    }
    small, untrained = report["codecs"]
    assert (small["raw_kbps"], untrained["raw_kbps"], untrained["codebook_size"]) == (1.5, 3.6, 64)
    assert small["log_mel"] < untrained["log_mel"] and small["bits_per_s"].keys() == {"gpt-8m", "hybrid-8m"}
    assert "8 × 64" in (tmp_path / "study.md").read_text() and (tmp_path / "rate-distortion.png").is_file()


def test_vocabulary_study_takes_a_single_codebook(synthetic_corpora: Path, tmp_path: Path) -> None:
    codecs = ["--codecs", "encodec_24khz_small:1", "encodec_24khz_small:2"]
    report = study("vocabulary", tmp_path, speech(synthetic_corpora), *codecs, "--seeds=1")
    assert [point["codebooks"] for point in report["codecs"]] == [1, 2]


def two_codecs(corpora: Sequence[Corpus]) -> Study:
    return recipes.vocabulary(corpora, parse_codecs(("encodec_24khz_small", "encodec_24khz_small:2")))


@pytest.mark.parametrize(
    "design", [recipes.mel, recipes.domain, recipes.noise, recipes.scale, recipes.resampler, two_codecs]
)
def test_designs_are_consistent(design: Callable[[Sequence[Corpus]], Study], tmp_path: Path) -> None:
    planned = design(parse_corpora(("librispeech=a/speech", "maestro=a/music", "folder=a/other")))
    made, cells = {made.name for made in planned.made}, set(planned.cells())
    assert len(made) == len(planned.made)
    for training in planned.trainings:
        assert {*training.datasets, *training.tests} <= made and set(training.rows) <= PRESETS.keys()
    for comparison in planned.comparisons:
        assert {comparison.of, comparison.base, *(comparison.less or ())} <= cells
    assert len({comparison.text for comparison in planned.comparisons}) == len(planned.comparisons)
    assert len({training.name for training in planned.trainings}) == len(planned.trainings)
    for dataset in planned.made:
        options = DatasetOptions(**dataset_options(dataset, tmp_path, {"hold_out": (0.1, 0.1)}))
        check(options)
        assert (options.hold_out == (0.1, 0.1)) == (dataset.corpus.layout == "librispeech")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resampler"], "name at least one corpus"),
        (["resampler", "nowhere"], "pass a corpus as LAYOUT=FOLDER"),
        (["domain", "folder=a"], "pass two corpora to train on"),
        (["domain", "folder=x/a", "folder=y/a"], "needs a folder of its own name"),
        (["vocabulary", "folder=a"], "study vocabulary needs at least two --codecs"),
        (["resampler", "folder=a", "--codecs", "x", "y"], "study vocabulary needs at least two --codecs"),
        (["vocabulary", "folder=a", "--codecs", "a/x.safetensors", "b/x.safetensors"], "a file of its own name"),
        (["mel", "folder=a", "--seeds=0"], "--seeds 0: must be at least 1"),
        (["scale", "folder=a"], "study scale needs at least --tokens 36864"),
    ],
)
def test_impossible_studies_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["study", *words, "--tokens=1", "--out", str(tmp_path)]) == 2
    assert message in error_line(capsys)


def test_missing_corpora_and_other_studies_are_refused_before_any_work(
    synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [speech(synthetic_corpora), f"folder={tmp_path / 'nowhere'}", "--tokens=1", "--out", str(tmp_path)]
    assert cli.main(["study", "resampler", *arguments, "--codec=encodec_24khz_small"]) == 1
    assert "nowhere: no such folder" in error_line(capsys) and not (tmp_path / "datasets").exists()
    assert cli.main(["study", "noise", *arguments, "--codec=encodec_24khz_small"]) == 1
    assert "holds the study resampler; pass another --out" in error_line(capsys)
    absent = ["--codecs", "encodec_24khz_small", str(tmp_path / "absent.safetensors")]
    elsewhere = [*arguments[:3], "--out", str(tmp_path / "other"), *absent]
    assert cli.main(["study", "vocabulary", *elsewhere]) == 1
    assert "no such f" in error_line(capsys) and not (tmp_path / "other" / "datasets").exists()


def test_a_verdict_needs_seeds_that_agree() -> None:
    cell = Cell("a", "gpt-4m", "a")
    comparison = Comparison("x", cell, cell)
    for by_seed, verdict in (((-0.2, -0.1), "lower"), ((-0.3, 0.1), "no difference that these seeds agree on")):
        outcome = Difference(-0.1, Interval(-0.2, -0.05), 0.01, by_seed)
        assert Compared(comparison, outcome).verdict == verdict
