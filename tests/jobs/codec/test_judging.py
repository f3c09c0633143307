"""Which measures are computed, which are skipped and reported, and how figures are aggregated."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.codec import judging
from whisper_gpt.jobs.codec.judging import Figure, Reference, Scores, Share, judged
from whisper_gpt.pipeline.judge import packages

EXTRA = packages.missing_packages()
SMALL = "--codec=encodec_24khz_small"
installed = pytest.mark.skipif(bool(EXTRA), reason=f"needs the extra judge: {', '.join(EXTRA)} missing")


@pytest.fixture
def utterance(tmp_path: Path) -> Path:
    """A LibriSpeech tree with one second of noise and a transcript."""
    folder = tmp_path / "LibriSpeech/test-clean/1/2"
    folder.mkdir(parents=True)
    wav = np.random.default_rng(0).standard_normal(16_000) / 10
    soundfile.write(folder / "1-2-0000.flac", wav, 16_000)
    (folder / "1-2.trans.txt").write_text("1-2-0000 HELLO THERE\n")
    return tmp_path


def test_figure_is_weighted_with_an_interval_over_recordings() -> None:
    scores = Scores()
    scores.add(0, {"wer": Share(0.5, 2), "pesq": Share(1.0)})
    scores.add(0, {"wer": Share(0.0, 2), "pesq": Share(np.nan)})
    scores.add(1, {"wer": Share(1.0, 4)})
    figures = scores.figures()
    assert figures["wer"].mean == pytest.approx(5 / 8) and figures["wer"].recordings == 2
    assert figures["wer"].low == pytest.approx(0.25) and figures["wer"].high == pytest.approx(1.0)
    assert figures["wer"].largest == 1.0
    assert figures["pesq"] == Figure(1.0, None, None, 1.0, 1)


def test_measure_without_scores_has_no_figure() -> None:
    scores = Scores()
    scores.add(0, {"pesq": Share(np.nan)})
    assert scores.figures() == {}


def test_without_judge_packages_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "find_spec", lambda name: None)
    wav = np.zeros(24_000, np.float32)
    assert judged(wav, Reference(wav, "HELLO"), "all") == {}


@installed
def test_measures_of_an_original_and_of_a_copy() -> None:
    wav = np.random.default_rng(0).standard_normal(24_000).astype(np.float32) / 10
    reference = Reference(wav, "HELLO THERE")
    common = {"dnsmos_overall", "dnsmos_signal", "dnsmos_background", "dnsmos_p808", "wer"}
    original = judged(wav, reference, "all")
    assert original.keys() == common | {"halves_similarity"}
    copy = judged(wav.copy(), reference, "all")
    assert copy.keys() == common | {"voice_similarity", "pesq", "stoi"}
    assert copy["voice_similarity"].value == pytest.approx(1, abs=1e-5) and copy["stoi"].value == pytest.approx(1)
    assert copy["dnsmos_overall"] == original["dnsmos_overall"]
    assert original["wer"].weight == 2
    assert "wer" not in judged(wav, Reference(wav), "all")


def test_missing_packages_are_reported_once(
    utterance: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    monkeypatch.setattr(judging, "find_spec", lambda name: None)
    arguments = ["evaluate-codec", str(utterance), SMALL, "--codebooks=2"]
    assert cli.main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert "pesq" in result["missing_packages"] and printed.err.count(packages.INSTALL) == 1
    assert result["figures"]["1.5 kbps · 2"].keys() == {"log_mel", "peak_ratio", "si_sdr_db"}
    assert cli.main([*arguments, "--judge=none"]) == 0
    printed = capsys.readouterr()
    assert "1.5 kbps · 2" in printed.out and packages.INSTALL not in printed.err


@installed
def test_evaluate_codec_uses_the_transcript(utterance: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate-codec", str(utterance), SMALL, "--codebooks=1", "--json"]
    assert cli.main([*arguments, "--judge=all"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["original"]["wer"]["mean"] >= 0.5 and figures["original"]["wer"]["recordings"] == 1
    assert {"dnsmos_overall", "wer", "voice_similarity"} <= figures["0.75 kbps · 1"].keys()
    assert "dnsmos_overall" not in figures["untrained"]
    assert cli.main(arguments) == 0
    assert "wer" not in json.loads(capsys.readouterr().out)["figures"]["original"]
