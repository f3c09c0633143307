"""`bench encode`, `bench decode`, `bench mel` and `evaluate-codec` print figures that are true of the given codec."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.bench import read_clips
from whisper_gpt.jobs.benchmarks.codec_speed import multiplications
from whisper_gpt.pipeline.codec.causal import Codec

SMALL = "--codec=encodec_24khz_small"


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_bench_encode_compares_codes(synthetic_corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [SMALL, "--clips=2", "--seconds=2", "--rounds=1"]
    result = run_json(capsys, "bench", "encode", str(synthetic_corpora / "LibriSpeech"), *options)
    assert result["codes_equal"] == 1.0
    assert result["seconds"] == pytest.approx(2 * 1.987, abs=0.03) and result["threads"] == 1
    assert result["ratio"] == pytest.approx(result["ours_xrt"] / result["stock_xrt"])
    assert result["floor_xrt"] > result["ours_xrt"] > 0


def test_bench_decode_and_mel_compare_values(capsys: pytest.CaptureFixture[str]) -> None:
    result = run_json(capsys, "bench", "decode", SMALL, "--clips=1", "--seconds=2", "--rounds=1")
    assert result["largest_difference"] < 1e-5 and result["frame_ms"] > 0
    result = run_json(capsys, "bench", "mel", "--clips=2", "--seconds=2", "--rounds=1")
    assert result["largest_difference"] < 1e-3


def test_bench_refuses_too_little_audio(synthetic_corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "encode", str(synthetic_corpora / "LibriSpeech"), "--seconds=1000"]) == 1
    assert "of audio, not 8 × 1000 s" in capsys.readouterr().err


def test_clips_are_cut_from_concatenated_recordings(tmp_path: Path) -> None:
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", np.full(16_000, i / 10), 24_000)
    clips = read_clips(tmp_path, count=2, seconds=0.8)
    assert clips.shape == (2, 19_200)
    assert np.abs(np.diff(clips.reshape(-1))).max() == pytest.approx(0.1, abs=1e-3)


def test_multiplication_count_matches_hand_calculation(codec: Codec) -> None:
    """Each frame of the first layer costs width · kernel multiplications per sample, and so on, for a width of 8."""
    expected = 8 * 7 * 24_000
    for width, rate, ratio in ((8, 24_000, 2), (16, 12_000, 4), (32, 3_000, 5), (64, 600, 8)):
        half = width // 2
        expected += rate * (width * half * 3 + half * width + width * width)
        expected += rate // ratio * width * 2 * width * 2 * ratio
    expected += 75 * (2 * 4 * 128 * (128 + 128) + 128 * 64 * 7)
    assert multiplications(codec.net.encoder, 24_000) == expected


def test_evaluate_codec_improves_with_more_codebooks(
    synthetic_corpora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "evaluate-codec",
        str(synthetic_corpora),
        SMALL,
        "--judge=none",
        "--minutes=0.3",
        "--only",
        "*/LibriSpeech/*",
    ]
    result = run_json(capsys, *arguments)
    rows = {name: {key: figure["mean"] for key, figure in row.items()} for name, row in result["figures"].items()}
    assert rows["6 kbps · 8"]["log_mel"] < rows["0.75 kbps · 1"]["log_mel"] < rows["shifted 0.5 s"]["log_mel"]
    assert rows["6 kbps · 8"]["si_sdr_db"] > rows["0.75 kbps · 1"]["si_sdr_db"] > rows["untrained"]["si_sdr_db"]
    assert rows["original"] == {"log_mel": 0.0, "peak_ratio": 1.0}
    assert rows["shifted 0.5 s"]["peak_ratio"] == 1.0
    assert len(result["codebooks"]) == 8
    assert all(0 < use["share"] <= 1 and 0 < use["entropy_bits"] <= 10 for use in result["codebooks"])
    assert cli.main([*arguments]) == 0
    assert "6 kbps · 8" in capsys.readouterr().out
    assert cli.main([*arguments[:4], "--only", "*/nothing/*"]) == 1
    assert "no recording" in capsys.readouterr().err
