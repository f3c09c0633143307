"""Preprocessing: complete, deterministic, resumable; bad input becomes failure rows, never a crash."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from tests.helpers import error_line, hashes
from whisper_gpt.jobs import cli
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.failures import read_failures
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.location import location
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture, build_network, seed_weights
from whisper_gpt.pipeline.codec.weights import save_weights
from whisper_gpt.pipeline.corpora.original import read_original

OPTIONS = ["--codec", "encodec_24khz_small", "--workers=0"]


def test_dataset_is_complete(synthetic_corpora: Path, dataset: Path) -> None:
    info = read_info(dataset)
    table = read_samples(dataset)
    assert len(set(table["source"].to_pylist())) == 30 and info.failed_sources == 0
    assert info.codec["name"] == "encodec_24khz_small" and info.splits.keys() == {"train", "validation", "test"}
    total_s = sum(
        soundfile.info(str(p)).duration for p in synthetic_corpora.rglob("*") if p.suffix in (".flac", ".wav")
    )
    assert sum(table["duration_s"].to_pylist()) == pytest.approx(total_s, abs=0.01)
    assert (dataset / "logs" / "preprocess.yaml").is_file()
    assert not list(dataset.rglob("*.tmp"))


@pytest.mark.usefixtures("ray_cluster")
def test_resumed_run_gives_the_same_bytes(synthetic_corpora: Path, dataset: Path, tmp_path: Path) -> None:
    """One worker finishes a run that lost shards, a fragment and dataset.json."""
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    (copy / "dataset.json").unlink()
    (copy / "manifest" / "train-000001.parquet").unlink()  # the tar stays, but counts as missing without its fragment
    (copy / "train" / "train-000001.tar").write_bytes(b"half a shard")
    (copy / "test" / "test-000000.tar").unlink()  # the fragment stays, but counts as missing without its tar
    whole = (copy / "train" / "train-000002.tar").read_bytes()
    (copy / "train" / "train-000002.tar").write_bytes(whole[: len(whole) // 2])
    (copy / "manifest" / "train-000003.parquet").write_bytes(b"damaged")
    arguments = [
        "preprocess",
        "synthetic",
        str(synthetic_corpora),
        "--out",
        str(copy),
        "--codec",
        "encodec_24khz_small",
    ]
    assert cli.main([*arguments, "--shard-mb=0.4", "--segment-s=5", "--workers=1"]) == 0
    assert hashes(copy) == hashes(dataset)


def test_other_settings_in_the_same_folder_are_refused(
    synthetic_corpora: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "preprocess",
        "synthetic",
        str(synthetic_corpora),
        "--out",
        str(dataset),
        "--codec",
        "encodec_24khz_small",
    ]
    before = hashes(dataset)
    assert cli.main([*arguments, "--shard-mb=0.4", "--segment-s=5", "--mels=80"]) == 1
    assert "mel.bands was 64 and is now 80" in error_line(capsys)
    assert hashes(dataset) == before
    (tmp_path / "mine.txt").write_text("a user's own file")
    assert cli.main([*arguments[:3], "--out", str(tmp_path), *OPTIONS]) == 1
    assert "not empty, and not a dataset" in error_line(capsys)


def test_plan_prints_json(synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["synthetic", str(synthetic_corpora), "--out", str(tmp_path / "set"), *OPTIONS]
    capsys.readouterr()
    assert cli.main(["plan", *arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert sum(split["sources"] for split in plan["splits"].values()) == 30
    assert sum(split["hours"] for split in plan["splits"].values()) == pytest.approx(plan["to_do_s"] / 3600)
    assert plan["measured"]["real_time_per_worker"] > 0
    assert cli.main(["preprocess", *arguments]) == 0
    capsys.readouterr()
    assert cli.main(["plan", *arguments, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["to_do_s"] == 0 and plan["measured"] is None


def test_speed_changes_duration_and_pitch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 1000 / 24_000 * np.arange(48_000))
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "tone.wav", tone, 24_000)
    arguments = ["preprocess", "folder", str(tmp_path / "audio"), "--mel-of=codes", *OPTIONS, "--out"]
    bands = []
    for name, speed in (("usual", []), ("fast", ["--speed=2"])):
        assert cli.main([*arguments, str(tmp_path / name), *speed]) == 0
        (row,) = read_samples(tmp_path / name).to_pylist()
        assert row["duration_s"] == (1.0 if speed else 2.0)
        assert pq.read_table(tmp_path / name / "plan.parquet")["seconds"].to_pylist() == [row["duration_s"]]
        bands.append(int(np.argmax(read_info(tmp_path / name).mel_mean[0])))
    assert bands[1] > bands[0]  # 2 kHz instead of 1 kHz
    capsys.readouterr()
    assert cli.main([*arguments, str(tmp_path / "fast"), "--speed=1.1"]) == 1
    assert "speed was 2.0 and is now 1.1" in error_line(capsys)
    assert cli.main([*arguments, str(tmp_path / "usual"), "--speed=1.1"]) == 1
    assert "speed was 1.0 and is now 1.1" in error_line(capsys)
    assert cli.main([*arguments, str(tmp_path / "none"), "--speed=0"]) == 2


def test_degraded_audio_and_a_causal_resampler(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "audio").mkdir()
    wav = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "audio" / "noise.wav", wav, 16_000)
    arguments = ["preprocess", "folder", str(tmp_path / "audio"), *OPTIONS, "--out"]
    rows = {}
    for option in ("--degradation=none", "--degradation=telephone", "--resampler=minimum-phase"):
        out = tmp_path / option.partition("=")[2]
        assert cli.main([*arguments, str(out), option]) == 0
        (rows[option],) = read_samples(out).to_pylist()
        original = read_original(location(tmp_path / "audio"), rows[option], rows[option]["frames"] * 320)
        assert 20 * np.log10(np.sqrt(np.mean(np.square(original)))) == pytest.approx(rows[option]["rms_dbfs"], abs=0.01)
    usual, telephone, causal = rows.values()
    assert len({row["codes_sha256"] for row in rows.values()}) == 3
    assert (usual["extra"], telephone["extra"]) == ("", '{"degradation": "telephone"}')
    assert usual["rms_dbfs"] > telephone["rms_dbfs"] + 2 and causal["rms_dbfs"] == pytest.approx(
        usual["rms_dbfs"], abs=0.5
    )
    capsys.readouterr()
    assert cli.main([*arguments, str(tmp_path / "none"), "--degradation=mp3"]) == 1
    assert "degradation was 'none' and is now 'mp3'" in error_line(capsys)
    assert cli.main(["audit", str(tmp_path / "minimum-phase")]) == 0
    assert "from 16,000 Hz it looks ahead 0 samples at" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("workers", ["--workers=0", "--workers=2"])
def test_disk_error_in_a_worker_is_one_line(
    workers: str, ray_cluster: None, synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [
        "preprocess",
        "maestro",
        str(synthetic_corpora),
        "--out",
        str(out),
        *OPTIONS,
        "--splits",
        "test",
        workers,
    ]
    assert cli.main(arguments) == 0
    shutil.rmtree(out / "manifest")
    shutil.rmtree(out / "test")
    (out / "test").write_text("a file where the shards' folder should be")
    assert cli.main(arguments) == 1
    assert error_line(capsys) == f"whisper-gpt preprocess: {out}/test: File exists"


def test_second_run_is_refused_and_dead_locks_are_free(
    synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["preprocess", "maestro", str(synthetic_corpora), "--out", str(out), *OPTIONS, "--splits", "test"]
    holder = (
        "import sys; from pathlib import Path; from whisper_gpt.jobs.common.lock import output_lock\n"
        "with output_lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        assert cli.main(arguments) == 1
        assert f"another run is writing here (process {process.pid} on " in error_line(capsys)
        process.kill()
    assert cli.main(arguments) == 0


@pytest.fixture(scope="module")
def damaged_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two good files and one file for every kind of damage."""
    folder = tmp_path_factory.mktemp("damaged")
    random = np.random.default_rng(0)
    noise = random.standard_normal(2 * 16_000) * 0.1
    for name in ("good one.wav", "good two.flac"):
        soundfile.write(str(folder / name), noise, 16_000)
    (folder / "empty.flac").write_bytes(b"")
    (folder / "text.wav").write_text("not audio at all\n" * 99)
    soundfile.write(str(folder / "nothing.wav"), np.zeros(0), 16_000)
    soundfile.write(str(folder / "eight.wav"), np.zeros((16_000, 8)), 16_000)
    broken = noise.astype(np.float32)
    broken[-1] = np.inf
    soundfile.write(str(folder / "inf.wav"), broken, 16_000, "FLOAT")
    soundfile.write(str(folder / "cut.flac"), noise, 16_000)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:20_000])
    (folder / "dangling.wav").symlink_to(folder / "nowhere.wav")
    return folder


def test_bad_files_become_failure_rows(
    damaged_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["preprocess", "folder", str(damaged_folder), "--out", str(out), *OPTIONS]) == 3
    assert "more than --max-failed 1.0%" in " ".join(capsys.readouterr().err.split())
    failures = {row["source"]: row for row in read_failures(out).to_pylist()}
    assert {name: row["stage"] for name, row in failures.items()} == {
        "empty.flac": "scan",
        "text.wav": "scan",
        "nothing.wav": "scan",
        "eight.wav": "scan",
        "dangling.wav": "scan",
        "inf.wav": "decode",
        "cut.flac": "decode",
    }
    assert all(row["message"] and row["error"] and row["seconds"] > 0 for row in failures.values())
    assert "8 channels" in failures["eight.wav"]["message"]
    # Every source is in the manifest or in the failures; partial failures left nothing in the shards.
    assert {row["source"] for row in read_samples(out).to_pylist()} == {"good one.wav", "good two.flac"}
    assert cli.main(["verify", str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(out), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["failed_sources"] == 7 and sum(f["sources"] for f in content["failures"]) == 7


def test_max_failed_allows_failures(damaged_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.main(["preprocess", "folder", str(damaged_folder), "--out", str(out), *OPTIONS, "--max-failed=0.9"]) == 0


def test_require_complete_refuses_missing_maestro_audio(
    synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(shutil.copytree(synthetic_corpora / "maestro-v3.0.0", tmp_path / "source"))
    for path in sorted(source.rglob("*.wav"))[1:]:
        path.unlink()
    arguments = ["preprocess", "maestro", str(source), "--out", str(tmp_path / "out"), *OPTIONS]
    assert cli.main([*arguments, "--require-complete"]) == 1
    assert "9 files" in error_line(capsys)
    assert cli.main(arguments) == 0
    assert read_info(tmp_path / "out").absent_sources == 9
    assert len((tmp_path / "out" / "absent.txt").read_text().splitlines()) == 9


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["librispeech"], "needs the folder", 2),
        (["folder", "{corpora}", "--codec", "encodec_24khz_small", "--segment-s", "0"], "must be above zero", 2),
        (["folder", "{corpora}", "--codec", "encodec_24khz_small", "--segment-s", "nan"], "must be above zero", 2),
        (["folder", "{corpora}", "--codec", "encodec_24khz_small", "--workers", "-1"], "--workers -1", 2),
        (["folder", "{corpora}", "--codec", "encodec_24khz_small", "--codebooks", "99"], "1 to 8", 1),
        (["folder", "{corpora}", "--codec", "encodec_24khz_small", "--mel-window", "100"], "shorter than the hop", 2),
        (
            ["folder", "{corpora}", "--codec", "encodec_24khz_small", "--ray-address", "127.0.0.1:9"],
            "no Ray cluster answers",
            1,
        ),
        (["folder", "{corpora}", "--ray-address", "ray://127.0.0.1:10001"], "ray://127.0.0.1:10001", 1),
        (["librispeech", "/nowhere"], "no such folder", 1),
        (["maestro", "{corpora}/LibriSpeech", "--codec", "encodec_24khz_small"], "expected one maestro-v", 1),
        (["folder", "{corpora}", "--codec", "opus"], "is not known", 1),
        (["folder", "{corpora}", "--codec", "encodec_48khz"], "not causal", 1),
        (
            ["folder", "{corpora}", "--codec", "encodec_24khz_small", "--codec-weights", "x.th"],
            "--codec-weights x.th",
            1,
        ),
        (["folder", "{corpora}", "--codec-weights", "/nowhere/x.th"], "no such file", 1),
    ],
)
def test_user_errors_are_one_line(
    synthetic_corpora: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
    code: int,
) -> None:
    filled = [argument.replace("{corpora}", str(synthetic_corpora)) for argument in arguments]
    assert cli.main(["preprocess", *filled, "--out", str(tmp_path / "out")]) == code
    text = capsys.readouterr().err
    assert words in text and text.startswith("whisper-gpt preprocess: ") and text.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", [["--precision", "fp16"], ["--splits", "dev"]])
def test_unknown_option_values_exit_2(synthetic_corpora: Path, tmp_path: Path, option: list[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["preprocess", "folder", str(synthetic_corpora), "--out", str(tmp_path / "out"), *option])
    assert exit_info.value.code == 2


def test_trained_codec_is_used_whatever_its_name(synthetic_corpora: Path, tmp_path: Path) -> None:
    """Even if it has the name of another codec: the file decides."""
    net = build_network(CodecArchitecture(width=4, latent=16, codebooks=2, codebook_size=64))
    seed_weights(net, seed=0)
    file, out = tmp_path / "codec.safetensors", tmp_path / "out"
    save_weights(file, "encodec_48khz", net)
    arguments = ["preprocess", "maestro", str(synthetic_corpora), "--out", str(out), "--splits", "test", "--workers=0"]
    assert cli.main([*arguments, "--codec", str(file), "--codebooks=2"]) == 0
    info = read_info(out)
    assert (info.codec["name"], info.codec["codebooks"], info.codec["codebook_size"]) == ("encodec_48khz", 2, 64)
    assert cli.main(["verify", str(out)]) == 0


def test_cuda_without_a_gpu_is_refused(
    ray_cluster: None, synthetic_corpora: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only Ray knows the GPUs, so the plan exists by then; a run on the CPU resumes from it."""
    arguments = [
        "preprocess",
        "maestro",
        str(synthetic_corpora),
        "--out",
        str(tmp_path / "out"),
        *OPTIONS,
        "--splits=test",
    ]
    assert cli.main([*arguments, "--device", "cuda", "--workers=2"]) == 1
    assert "--device cuda" in error_line(capsys)
    assert cli.main(arguments) == 0
