"""The reproduction table end to end on synthetic audio: every kind of row, reruns, and refusals."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.errors import UsageError
from whisper_gpt.jobs.reproduction.rows import lacking, rows_of
from whisper_gpt.jobs.reproduction.schedule import Cost, affordable_tokens
from whisper_gpt.manifests.dataset_info import DatasetInfo, read_info
from whisper_gpt.model.hybrid import HybridLM

pytestmark = pytest.mark.usefixtures("tiny_presets")

ROWS = ["gpt-4m", "hybrid-4m", "hybrid-4m-codes-1", "mel-alone", "gpt-4m-all-codes", "hybrid-4m-centred"]
FAST = ["--tokens=128", "--seeds=2", "--learning-rates=1e-3", "--context=32", "--batch=2"]


@pytest.fixture(scope="module")
def variants_dataset(synthetic_corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with two codebooks and every mel variant."""
    out = tmp_path_factory.mktemp("variants") / "synthetic-speech"
    arguments = ["preprocess", "librispeech", str(synthetic_corpora / "LibriSpeech"), "--out", str(out)]
    arguments += ["--codec=encodec_24khz_small", "--codebooks=2", "--mel-of=both", "--leaky-control", "--workers=0"]
    assert cli.main([*arguments, "--hold-out", "0.3", "0.3"]) == 0
    return out


def reproduce(dataset: Path, out: Path, *options: str, workers: str = "--workers=0") -> int:
    return cli.main(["reproduce", str(dataset), "--out", str(out), workers, *FAST, *options])


def test_every_mel_variant_is_in_every_sample(variants_dataset: Path) -> None:
    info = read_info(variants_dataset)
    assert info.mel["variants"] == ["audio", "codes-1", "codes-2", "centred-2048"]
    assert len(info.mel_mean) == 4 and all(len(mean) == 64 for mean in info.mel_mean)
    assert cli.main(["verify", str(variants_dataset)]) == 0


def test_table_has_all_kinds_of_rows_and_reruns_train_nothing(
    variants_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(variants_dataset, tmp_path, "--rows", *ROWS) == 0
    table = json.loads((tmp_path / "table.json").read_text())
    rows = {row["row"]: row for row in table["domains"]["synthetic-speech"]["rows"]}
    assert set(rows) == {*ROWS, "unigram", "bigram", "5-gram"}
    assert rows["hybrid-4m"]["parameters"] > rows["gpt-4m"]["parameters"]
    scored = {sum(json.loads(path.read_text())["tokens"]) for path in tmp_path.glob("trials/**/test.json")}
    assert scored == {
        read_info(variants_dataset).splits["test"].frames
    }  # every row scores the same tokens, each frame once
    markdown = (tmp_path / "table.md").read_text()
    assert all(f"{name} (" in markdown for name in rows) and "the price of a leak" in markdown
    for figure in ("learning", "positions"):
        assert (tmp_path / f"synthetic-speech-{figure}.png").read_bytes().startswith(b"\x89PNG")
    capsys.readouterr()

    before_times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/**/t*.json")}
    assert len(before_times) == 2 * (2 * len(ROWS)) + 3
    removed = tmp_path / "trials/synthetic-speech/mel-alone/rate-0.001-seed-1"
    scores_before = (removed / "test.json").read_bytes()
    (removed / "trial.json").unlink()
    (removed / "test.json").unlink()
    assert reproduce(variants_dataset, tmp_path, "--rows", *ROWS) == 0
    after_times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("trials/**/t*.json")}
    assert {path for path in before_times if after_times[path] != before_times[path]} == {
        removed / "trial.json",
        removed / "test.json",
    }
    assert (removed / "test.json").read_bytes() == scores_before  # repeating a trial gives the same model
    assert _without_wall_times(json.loads((tmp_path / "table.json").read_text())) == _without_wall_times(table)

    assert reproduce(variants_dataset, tmp_path, "--rows", *ROWS, "--batch=1") == 1
    assert "holds another table: batch was 2, now 1" in capsys.readouterr().err


def _without_wall_times(table: dict[str, Any]) -> dict[str, Any]:
    """Retrained rows have other wall times."""
    for domain in table["domains"].values():
        for row in domain["rows"]:
            assert row.pop("wall_s") >= 0
    return table


def test_wider_grid_trains_only_new_trials(variants_dataset: Path, tmp_path: Path) -> None:
    assert reproduce(variants_dataset, tmp_path, "--rows=gpt-4m", "--seeds=1") == 0
    trials = tmp_path / "trials/synthetic-speech/gpt-4m"
    first = (trials / "rate-0.001-seed-0/trial.json").stat().st_mtime_ns
    assert reproduce(variants_dataset, tmp_path, "--rows=gpt-4m", "--seeds=1", "--learning-rates", "1e-3", "1e-2") == 0
    assert (trials / "rate-0.001-seed-0/trial.json").stat().st_mtime_ns == first
    nats = {path.parent.name: json.loads(path.read_text())["nats"] for path in trials.glob("*/trial.json")}
    assert len(nats) == 2
    assert "At an edge" in (tmp_path / "table.md").read_text()
    (row,) = [
        row
        for row in json.loads((tmp_path / "table.json").read_text())["domains"]["synthetic-speech"]["rows"]
        if row["row"] == "gpt-4m"
    ]
    assert row["learning_rate"] == (0.001 if nats["rate-0.001-seed-0"] < nats["rate-0.01-seed-0"] else 0.01)


def test_all_codebooks_are_compared_in_bits_per_second(
    variants_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--all-codebooks", "--context=8", "--batch=4", "--seeds=1"]
    assert reproduce(variants_dataset, tmp_path, *options) == 0
    table = json.loads((tmp_path / "table.json").read_text())
    rows = {row["row"]: row for row in table["domains"]["synthetic-speech"]["rows"]}
    assert list(rows) == ["gpt-8m", "delay-8m", "flat-8m", "hybrid-8m", "hybrid-8m-one-code"]
    frames = read_info(variants_dataset).splits["test"].frames
    for row in rows.values():
        assert len(row["codebook_nll"]) == 2 and row["nll"] == pytest.approx(sum(row["codebook_nll"]))
        assert row["tokens_trained"] == 128
    # The same models as `evaluate` scores them, on the same frames.
    for path in tmp_path.glob("trials/synthetic-speech/*/rate-0.001-seed-0/test.json"):
        assert sum(json.loads(path.read_text())["tokens"]) == frames
        name = path.parent.parent.name
        capsys.readouterr()
        assert cli.main(["evaluate", str(variants_dataset), str(path.parent), "--split=test", "--json"]) == 0
        (scored,) = [row for row in json.loads(capsys.readouterr().out) if row["run"]]
        nll = rows[name]["nll_by_seed"][0]
        assert scored["context"] == (4 if name == "flat-8m" else 8)
        assert scored["bits_per_s"] == pytest.approx(table["per_nat"] * nll)
    markdown = (tmp_path / "table.md").read_text()
    assert "| bits/s [95 %] |" in markdown and "hybrid-8m against gpt-8m" in markdown
    assert reproduce(variants_dataset, tmp_path, "--context=8", "--batch=4") == 1  # the other table
    assert "holds another table" in capsys.readouterr().err


def test_rows_seeds_and_datasets_can_be_added(variants_dataset: Path, dataset: Path, tmp_path: Path) -> None:
    assert reproduce(variants_dataset, tmp_path, "--rows=gpt-4m", "--seeds=1") == 0
    first = tmp_path / "trials/synthetic-speech/gpt-4m/rate-0.001-seed-0/trial.json"
    first_time = first.stat().st_mtime_ns
    assert (
        cli.main(
            [
                "reproduce",
                str(variants_dataset),
                str(dataset),
                "--out",
                str(tmp_path),
                "--workers=0",
                *FAST,
                "--rows",
                *ROWS[:2],
            ]
        )
        == 0
    )
    assert first.stat().st_mtime_ns == first_time
    table = json.loads((tmp_path / "table.json").read_text())
    assert list(table["domains"]) == list(json.loads((tmp_path / "plan.json").read_text())["dataset"])
    assert list(table["domains"]) == [variants_dataset.name, dataset.name]
    for domain in table["domains"].values():
        trained = {row["row"]: row["seeds"] for row in domain["rows"] if row["tag"] != "baseline"}
        assert trained == {"gpt-4m": [0, 1], "hybrid-4m": [0, 1]}
    assert any(f"{dataset.name} does not allow the rows of decoded mel, centred mel" in line for line in table["note"])


def test_failed_trials_are_reported_and_do_not_stop_others(
    variants_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(variants_dataset, tmp_path, "--rows", *ROWS[:2], "--seeds=1") == 0
    trials = {path.parent.parent.name: path.parent for path in tmp_path.glob("trials/**/rate-*/test.json")}
    for trial in trials.values():
        (trial / "test.json").unlink()
    (trials["hybrid-4m"] / "model.safetensors").write_bytes(b"damaged")
    assert reproduce(variants_dataset, tmp_path, "--rows", *ROWS[:2], "--seeds=1") == 1
    assert "1 of 2 failed" in capsys.readouterr().err
    assert (trials["gpt-4m"] / "test.json").is_file() and not (trials["hybrid-4m"] / "test.json").exists()
    assert "in score_trial" in (trials["hybrid-4m"] / "log.txt").read_text()


def test_trained_rows_have_the_inputs_they_name(variants_dataset: Path, tmp_path: Path) -> None:
    assert (
        reproduce(
            variants_dataset, tmp_path, "--seeds=1", "--rows", "hybrid-4m-codes-1", "mel-alone", "gpt-4m-all-codes"
        )
        == 0
    )
    folders = {path.parent.name: path for path in tmp_path.glob("trials/synthetic-speech/*/rate-*")}
    shapes = {name: HybridLM.from_pretrained(folder).config for name, folder in folders.items()}
    assert shapes["mel-alone"].input_codebooks == 0 and shapes["gpt-4m-all-codes"].input_codebooks == 2
    assert shapes["hybrid-4m-codes-1"].mel_bands == 64 and not shapes["gpt-4m-all-codes"].hybrid
    models = [HybridLM.from_pretrained(folders[name]) for name in ("hybrid-4m-codes-1", "mel-alone")]
    means = [tuple(model.mel_encoder.mel_mean.tolist()) for model in models]
    info = read_info(variants_dataset)
    assert means[0] == pytest.approx(info.mel_mean[1], abs=1e-4)  # each variant is normalised by its own statistics
    assert means[1] == pytest.approx(info.mel_mean[0], abs=1e-4)


def test_budget_in_minutes_becomes_tokens(
    variants_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "reproduce",
        str(variants_dataset),
        "--out",
        str(tmp_path),
        "--workers=0",
        *FAST[1:],
        "--rows=gpt-4m",
        "--seeds=1",
    ]
    assert cli.main([*arguments, "--budget=1e-4"]) == 1
    assert "--budget" in capsys.readouterr().err
    # The least budget that this machine, however busy, can do anything in.
    minutes = next(minutes for minutes in (0.1, 0.4, 1.6, 6.4) if cli.main([*arguments, f"--budget={minutes}"]) == 0)
    tokens = json.loads((tmp_path / "plan.json").read_text())["tokens"]
    assert cli.main([*arguments, f"--budget={minutes}"]) == 0  # the plan is kept, whatever the machine's speed is now
    assert json.loads((tmp_path / "plan.json").read_text())["tokens"] == tokens
    assert cli.main([*arguments, f"--tokens={tokens}"]) == 0
    assert cli.main([*arguments, f"--tokens={tokens + 1}"]) == 1
    assert f"tokens was {tokens}, now {tokens + 1}" in capsys.readouterr().err


def test_impossible_requests_are_refused_before_training(
    dataset: Path, variants_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reproduce(dataset, tmp_path / "a", "--rows", "hybrid-4m-codes-8") == 2
    assert "--mel-of both" in capsys.readouterr().err
    assert cli.main(["reproduce", str(variants_dataset), "--out", str(tmp_path / "b")]) == 2
    assert "--tokens" in capsys.readouterr().err
    assert (
        cli.main(
            ["reproduce", str(variants_dataset), str(variants_dataset), "--out", str(tmp_path / "c"), "--tokens=1"]
        )
        == 2
    )
    assert variants_dataset.name in capsys.readouterr().err
    assert not any((tmp_path / name).exists() for name in "abc")


def test_rows_follow_from_the_mel_variants(variants_dataset: Path) -> None:
    info = read_info(variants_dataset)
    assert [row.tag for row in rows_of("speech", info, [])] == list("aabcddef")
    plain: DatasetInfo = replace(info, mel={**info.mel, "variants": ["codes-2"]})
    names = [row.name for row in rows_of("speech", plain, [])]
    assert names == ["gpt-4m", "gpt-40m", "gpt-4m-all-codes", "hybrid-4m-codes-2"]
    assert lacking(info) == [] and lacking(plain) == ["real mel", "centred mel"]
    with pytest.raises(UsageError, match="gpt-5"):
        rows_of("speech", info, ["gpt-5"])


@given(st.lists(st.floats(1e-6, 1e-2), min_size=1, max_size=20), st.floats(1e5, 1e7), st.integers(1, 64))
def test_affordable_tokens_fill_the_budget_exactly(costs: list[float], seconds: float, workers: int) -> None:
    trials, scored = [Cost(1.0, cost) for cost in costs], [1000] * len(costs)
    tokens = affordable_tokens(seconds, trials, scored, workers, phases=2)

    def times(tokens: int) -> list[float]:
        return [1.0 + cost * (tokens + 1000 / 3) for cost in costs]

    def fits(tokens: int) -> bool:
        return sum(times(tokens)) <= 0.85 * seconds * workers and 2 * max(times(tokens)) <= 0.85 * seconds

    assert fits(tokens - 1) and not fits(tokens + 2)


def test_diverging_learning_rate_is_not_chosen(
    variants_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--rows=gpt-4m", "--seeds=1", "--tokens=1024", "--learning-rates", "1e30"]
    assert reproduce(variants_dataset, tmp_path, *options) == 1
    assert "--learning-rates" in capsys.readouterr().err
    assert reproduce(variants_dataset, tmp_path, *options, "1e-3") == 0
    trials = {path.parent.name: json.loads(path.read_text()) for path in tmp_path.glob("trials/**/trial.json")}
    assert trials["rate-1e+30-seed-0"]["nats"] is None and trials["rate-0.001-seed-0"]["nats"] > 0
    assert [path.parent.name for path in tmp_path.glob("trials/**/gpt-4m/*/test.json")] == ["rate-0.001-seed-0"]


def test_trained_row_can_be_evaluated_audited_and_sampled(variants_dataset: Path, tmp_path: Path) -> None:
    assert reproduce(variants_dataset, tmp_path, "--rows=hybrid-4m-codes-1", "--seeds=1") == 0
    (trial,) = tmp_path.glob("trials/synthetic-speech/hybrid-4m-codes-1/rate-*")
    assert cli.main(["evaluate", str(variants_dataset), str(trial), "--split=validation"]) == 0
    assert cli.main(["audit", str(trial)]) == 0
    assert cli.main(["generate", str(trial), "--out", str(tmp_path / "o.wav"), "--seconds=0.1"]) == 0


def test_unknown_speakers_cannot_be_held_out(
    synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["preprocess", "maestro", str(next(synthetic_corpora.glob("maestro*"))), "--out", str(tmp_path / "o")]
    assert cli.main([*arguments, "--codec=encodec_24khz_small", "--hold-out", "0.1", "0.1"]) == 1
    assert "no training recording" in capsys.readouterr().err


@pytest.mark.slow
def test_trial_of_a_killed_worker_resumes_exactly(ray_cluster: None, variants_dataset: Path, tmp_path: Path) -> None:
    """Ray restarts the task, which resumes from its checkpoint and ends with the same model."""
    options = ["--rows=gpt-4m", "--seeds=1", "--tokens=640"]
    assert reproduce(variants_dataset, tmp_path / "plain", *options, workers="--workers=2") == 0

    @ray.remote
    def kill_first_worker(folder: str) -> bool:
        import os
        import signal
        import time

        import psutil

        for _ in range(12_000):
            time.sleep(0.05)
            if list(Path(folder).glob("**/checkpoints/step-*")):
                for process in psutil.process_iter(["cmdline"]):
                    if "ray::_call" in " ".join(process.info["cmdline"] or []):
                        os.kill(process.pid, signal.SIGKILL)
                        return True
        return False

    kill = kill_first_worker.options(num_cpus=0).remote(str(tmp_path / "killed"))
    assert reproduce(variants_dataset, tmp_path / "killed", *options, workers="--workers=2") == 0
    assert ray.get(kill)
    models = [next((tmp_path / name).glob("trials/**/model.safetensors")).read_bytes() for name in ("plain", "killed")]
    assert models[0] == models[1]
    files = [next((tmp_path / name).glob("trials/**/trial.json")) for name in ("plain", "killed")]
    plain, killed = (json.loads(file.read_text()) for file in files)
    assert plain["curve"] == killed["curve"] and plain["nats"] == killed["nats"]
