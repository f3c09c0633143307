"""A full disk: a one-line error that names the file being written, nothing half-written, and a rerun resumes."""

import contextlib
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.event_log import run_log
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.inference.run_folder import checkpoints
from whisper_gpt.jobs.reproduction.trials import append_log
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.manifests.scratch import scratch_folder
from whisper_gpt.pipeline.corpora import synthetic
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.shard_cache import ShardCache

pytestmark = pytest.mark.usefixtures("tiny_presets")


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Simulate a full disk: no file can grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def last_error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the last line of stderr, which must not hold a traceback."""
    output = capsys.readouterr().err
    assert "Traceback" not in output, output
    return output.strip().splitlines()[-1]


def test_every_write_error_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(bytes(100))
    with file_size_limit(0):
        with pytest.raises(ManifestError, match=str(tmp_path / "a")):
            publish_bytes(tmp_path / "a", bytes(100))
        with pytest.raises(ManifestError, match=r"events\.jsonl"):
            run_log(tmp_path).write("begun", shard="train-000000")
        with pytest.raises(ManifestError, match="logs/lock"), output_lock(tmp_path / "run"):
            pass
        with pytest.raises(ManifestError, match=str(tmp_path / "trial")):
            append_log(tmp_path / "trial", "a line of a log")
        with pytest.raises(ManifestError, match=str(tmp_path / "cache")):
            ShardCache(tmp_path / "cache", 1000).fetch(tmp_path / "shard", "0")
        with pytest.raises(ManifestError, match="whisper-gpt-"), scratch_folder() as folder:
            (folder / "copy").write_bytes(bytes(100))
        with pytest.raises(PipelineError, match=r"\.flac"):
            synthetic.write(tmp_path / "synthetic", synthetic.SyntheticSize(utterances=1, pieces=0))
    assert not (tmp_path / "a").exists() and not list(tmp_path.glob(".a*"))


def test_shard_write_failure_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    soundfile.write(str(source / "a.wav"), np.random.default_rng(0).standard_normal(24_000) * 0.1, 24_000)
    arguments = [
        "preprocess",
        "folder",
        str(source),
        "--out",
        str(out),
        "--workers=0",
        "--codec",
        "encodec_24khz_small",
    ]
    with file_size_limit(16_000):
        assert cli.main(arguments) == 1
    assert f"{out}/train/train-000000.tar" in last_error_line(capsys)
    assert not list(out.rglob("*.tar")) and not list(out.rglob("*.tmp")) and not list(out.glob("manifest/*"))
    assert cli.main(arguments) == 0 and cli.main(["verify", str(out)]) == 0


def test_report_write_failure_leaves_nothing_behind(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with file_size_limit(16_000):
        assert cli.main(["inspect", str(dataset), "--html", str(tmp_path / "page.html")]) == 1
    assert str(tmp_path / "page.html") in last_error_line(capsys)
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_run_and_wav_write_failures_leave_nothing_behind(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, wav = tmp_path / "run", tmp_path / "more.wav"
    small = ["--model=gpt-4m", "--batch=1", "--context=16", "--clip-s=0", "--eval-batches=1"]
    train = ["train", str(dataset), "--out", str(run), *small]
    with file_size_limit(4_000):
        assert cli.main([*train, "--steps=40", "--eval-every=20"]) == 1
    assert str(run / "tensorboard") in last_error_line(capsys)
    with file_size_limit(100_000):
        assert cli.main([*train, "--steps=1"]) == 1
    line = last_error_line(capsys)
    assert (
        str(run / "checkpoints" / "step-00000001") in line and "--resume" not in line
    )  # there is no checkpoint to resume from
    assert not list((run / "checkpoints").iterdir())
    assert cli.main([*train, "--steps=1"]) == 0
    with file_size_limit(10_000):
        assert cli.main(["generate", str(run), "--out", str(wav), "--seconds=1"]) == 1
    assert str(wav) in last_error_line(capsys)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"] and len(checkpoints(run)) == 1
