"""The whole pipeline on real recordings; skipped unless `$WHISPER_GPT_DATA` is set."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from whisper_gpt.jobs import cli
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.failures import read_failures
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.pipeline.audio import probe, read_mono
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.corpora import librispeech, maestro
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.features.mel import LogMel


@pytest.fixture(scope="module")
def utterance(real_data: Path) -> np.ndarray:
    """Two seconds of real speech at 24 kHz from the middle of an utterance."""
    file = sorted((real_data / "LibriSpeech" / "train-clean-100").rglob("*.flac"))[7]
    return read_mono(file)[48_000:96_000]


@pytest.mark.parametrize("t", [0, 1, 2, 3, 50, 147])
@torch.no_grad()
def test_codes_mel_and_logits_are_causal(utterance: np.ndarray, codec: Codec, log_mel: LogMel, t: int) -> None:
    """If samples from 320(t + 1) on are replaced, no code, mel frame or logit at or before t changes by a bit.

    The logits computed from frames up to t are output t + 1 of the model: output t predicts frame t.
    """
    torch.manual_seed(0)
    model = HybridLM(ModelConfig("hybrid", mel_bands=64)).eval()
    for parameter in model.parameters():
        # A fresh model zeroes the output projections of its branches.
        parameter.add_(torch.randn_like(parameter) * 0.05)
    changed = utterance.copy()
    changed[320 * (t + 1) :] = np.random.default_rng(t).standard_normal(len(changed) - 320 * (t + 1)) * 0.3

    def stages(wav: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        codes, mel = torch.from_numpy(codec.encode(wav)), log_mel(torch.from_numpy(wav))
        logits = model(codes[None].long(), model.mel_encoder.normalise(mel[None])).logits[0]
        return codes, mel, logits

    (codes, mel, logits), (codes_2, mel_2, logits_2) = stages(utterance), stages(changed)
    assert torch.equal(codes[:, : t + 1], codes_2[:, : t + 1])
    assert torch.equal(mel[: t + 1], mel_2[: t + 1])
    assert torch.equal(logits[: t + 2], logits_2[: t + 2])
    assert not torch.equal(codes[:, t + 1 :], codes_2[:, t + 1 :])
    assert not torch.equal(mel[t + 1], mel_2[t + 1])


def test_librispeech_tree(real_data: Path) -> None:
    scan = librispeech.scan(real_data / "LibriSpeech")
    assert len(scan.recordings) == 371 and scan.warnings == [] and scan.absent == {}
    assert all(r.text and r.speaker_name and r.book and r.sex in "MF" for r in scan.recordings)
    seconds = sum(probe(real_data / "LibriSpeech" / r.path).duration_s for r in scan.recordings)
    assert seconds == pytest.approx(4245.55, abs=0.05)
    assert {r.split for r in scan.recordings} == {"train", "test"}


def test_librispeech_tree_without_tables(real_data: Path) -> None:
    scan = librispeech.scan(real_data / "LibriSpeech-singles")
    assert len(scan.recordings) == 248 and len(scan.warnings) == 1
    assert "248 without a transcript" in scan.warnings[0]


def test_maestro_table_without_audio_is_refused(real_data: Path) -> None:
    """With the real CSV and MIDI files only, the error counts all 1,276 absent recordings."""
    with pytest.raises(PipelineError, match="none of its 1276 audio files"):
        maestro.scan(real_data / "maestro-v3.0.0")


def test_one_real_maestro_recording_is_preprocessed(real_data: Path, tmp_path: Path) -> None:
    """The real CSV with one real recording (48 kHz stereo); the other 1,275 rows are absent."""
    wav = next((real_data / "maestro-real-audio").rglob("*.wav"))
    table = real_data / "maestro-v3.0.0" / "maestro-v3.0.0.csv"
    rows = [line for line in table.read_text(encoding="utf-8").splitlines() if wav.name in line]
    assert len(rows) == 1
    home = tmp_path / "maestro-v3.0.0"
    (home / wav.parent.name).mkdir(parents=True)  # the folder is the year, as in the table
    shutil.copy(wav, home / wav.parent.name)
    shutil.copy(table, home)
    out = tmp_path / "out"
    assert (
        cli.main(["preprocess", "maestro", str(home), "--out", str(out), "--codec=encodec_24khz_small", "--workers=0"])
        == 0
    )
    row = read_samples(out).to_pylist()[0]
    assert read_info(out).absent_sources == 1275
    assert (row["source_rate"], row["source_channels"]) == (48_000, 2) and row["composer"] and row["year"] > 2000


def test_real_speech_through_the_whole_pipeline(real_data: Path, tmp_path: Path) -> None:
    """The four utterances of test-clean are complete and aligned, have transcripts, and pass `verify`."""
    out = tmp_path / "out"
    arguments = [
        "preprocess",
        "librispeech",
        str(real_data / "LibriSpeech"),
        "--out",
        str(out),
        "--codec=encodec_24khz_small",
    ]
    assert cli.main([*arguments, "--splits", "test", "--workers=0"]) == 0
    assert cli.main(["verify", str(out)]) == 0
    rows = read_samples(out).to_pylist()
    assert len(rows) == 4 and all(row["text"] and row["speaker_name"] == "Peter Bobbe" for row in rows)
    for row in rows:
        samples = len(read_mono(real_data / "LibriSpeech" / row["source"]))
        assert row["samples"] == samples and row["frames"] == math.ceil(samples / 320)
    assert read_failures(out).num_rows == 0
