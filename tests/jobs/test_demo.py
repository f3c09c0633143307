"""A small demo run: every verb runs once and writes its output."""

from pathlib import Path

import pytest
import soundfile

from whisper_gpt.jobs import cli

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def test_demo_runs_every_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    options = ["--minutes=0.03", "--utterances=10", "--pieces=10", "--workers=2"]
    assert cli.main(["demo", "--out", str(out), *options]) == 0
    table = capsys.readouterr().out
    assert all(model in table for model in ("unigram", "bigram", "5-gram", "hybrid-4m", "gpt-4m"))
    assert (out / "dataset" / "dataset.json").is_file() and (out / "dataset.html").stat().st_size > 100_000
    assert soundfile.info(str(out / "continuation.wav")).samplerate == 24_000
    assert cli.main(["demo", "--out", str(out)]) == 1
    assert "not empty" in capsys.readouterr().err
