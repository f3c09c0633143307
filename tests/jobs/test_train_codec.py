"""`train-codec`: learns, writes a codec for `preprocess`, resumes bit for bit, refuses invalid options."""

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from whisper_gpt.jobs import cli, train_codec
from whisper_gpt.jobs.codec.checkpoint import FILE_NAME
from whisper_gpt.pipeline.codec.loading import load_codec

SMALL = [
    *("--width=4", "--latent=16", "--codebooks=2", "--codebook-size=32"),
    *("--batch=2", "--crop-frames=16", "--eval-every=3"),
]


@pytest.fixture
def audio(synthetic_corpora: Path) -> Path:
    return synthetic_corpora / "LibriSpeech"


def train_codec_run(audio: Path, out: Path, *options: str) -> int:
    return cli.main(["train-codec", str(audio), "--out", str(out), *SMALL, *options])


def test_train_codec_learns_and_its_codec_loads(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    options = ["--hold-out", "*/test-clean/*", "--steps=60", "--eval-every=30", "--learning-rate=5e-3", "--name=mine"]
    assert train_codec_run(audio, out, *options) == 0
    output = capsys.readouterr().err
    assert "held-out" in output and output.count("validation/log_mel_0.75_kbps") == 2
    held_out = ["--only", "*/test-clean/*", "--codebooks=2", "--judge=none", "--json"]
    assert cli.main(["evaluate-codec", str(audio), f"--codec={out / 'codec.safetensors'}", *held_out]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["0.75 kbps · 2"]["log_mel"]["mean"] < 0.8 * figures["untrained"]["log_mel"]["mean"]
    codec = load_codec(str(out / "codec.safetensors"), codebooks=2)
    assert codec.name == "mine" and codec.codebook_size == 32


@pytest.mark.parametrize("adversarial", [0.0, 0.5])
def test_resume_is_bit_exact(audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adversarial: float) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    options = ["--steps=6", f"--adversarial={adversarial}"]
    assert train_codec_run(audio, whole, *options) == 0
    monkeypatch.setattr(train_codec, "stop_signals", lambda: signal_in_step(3))
    assert train_codec_run(audio, halves, *options) == 1
    monkeypatch.undo()
    assert train_codec_run(audio, halves, *options, "--resume") == 0
    expected, actual = load_file(whole / FILE_NAME), load_file(halves / FILE_NAME)
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


@contextmanager
def signal_in_step(step: int) -> Iterator[Callable[[], bool]]:
    """Replace the signal handlers: a signal arrives in step `step`. The loop polls before and after each step."""
    polls = itertools.count(1)
    yield lambda: next(polls) >= 2 * step


def test_existing_runs_are_not_overwritten_or_mixed_up(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert train_codec_run(audio, out, "--steps=2", "--adversarial=0") == 0
    assert train_codec_run(audio, out, "--steps=2") == 1
    assert "pass --resume" in capsys.readouterr().err
    assert train_codec_run(audio, out, "--steps=4", "--resume", "--seed=1") == 1
    assert str(out) in capsys.readouterr().err
    assert train_codec_run(audio, out, "--steps=4", "--resume", "--adversarial=1") == 1
    assert "with another --adversarial" in capsys.readouterr().err
    assert train_codec_run(audio, tmp_path / "other", "--resume") == 1
    assert "checkpoint.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message", "code"),
    [
        (["--hold-out", "*/nothing/*"], "matches none", 1),
        (["--hold-out", "*"], "no audio is left", 1),
        (["--codebook-size=1000"], "power of two", 2),
        (["--steps=0"], "must be at least 1", 2),
        (["--device=cuda"], "no CUDA device", 2),
    ],
)
def test_invalid_options_are_refused(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str, code: int
) -> None:
    if "--device=cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert train_codec_run(audio, tmp_path / "run", *options) == code
    assert message in capsys.readouterr().err


def test_init_starts_from_another_codec_and_resumes_exactly(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, whole, halves = (tmp_path / name for name in ("base", "whole", "halves"))
    assert train_codec_run(audio, base, "--steps=4", "--adversarial=0") == 0
    start = load_file(base / "codec.safetensors")
    # The architecture is that of the initial codec. A learning rate of almost 0 leaves the network weights unchanged.
    small = ["--batch=2", "--crop-frames=16", "--eval-every=3", "--adversarial=0", "--learning-rate=1e-12"]
    options = ["train-codec", str(audio), *small, "--init", str(base / "codec.safetensors"), "--steps=4"]
    assert cli.main([*options, "--out", str(whole)]) == 0
    fine_tuned = load_file(whole / "codec.safetensors")
    assert fine_tuned.keys() == start.keys()
    network = [name for name in start if "codebook" not in name]
    assert all(torch.equal(fine_tuned[name], start[name]) for name in network)
    monkeypatch.setattr(train_codec, "stop_signals", lambda: signal_in_step(2))
    assert cli.main([*options, "--out", str(halves)]) == 1
    monkeypatch.undo()
    assert cli.main([*options, "--out", str(halves), "--resume"]) == 0
    assert (halves / "codec.safetensors").read_bytes() == (whole / "codec.safetensors").read_bytes()
