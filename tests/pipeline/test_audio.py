"""Reading audio: formats, resampling, and the error for each kind of damage."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.pipeline.audio import probe, read_mono, stream_mono
from whisper_gpt.pipeline.errors import AudioError


def write(path: Path, samples: np.ndarray, rate: int, subtype: str | None = None) -> Path:
    soundfile.write(str(path), samples, rate, subtype)
    return path


def tone(seconds: float, rate: int) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def test_24_khz_mono_is_read_unchanged(tmp_path: Path) -> None:
    samples = tone(0.3, 24_000).astype(np.float32)
    assert np.array_equal(read_mono(write(tmp_path / "a.wav", samples, 24_000, "FLOAT")), samples)


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000, 8_000])
def test_resampling_keeps_waveform_and_length(tmp_path: Path, rate: int) -> None:
    wav = read_mono(write(tmp_path / "a.flac", tone(1.5, rate), rate))
    assert len(wav) == pytest.approx(36_000, abs=2)
    assert np.abs(wav[2000:-2000] - tone(1.5, 24_000)[2000 : len(wav) - 2000]).max() < 2e-3


def test_stereo_is_averaged(tmp_path: Path) -> None:
    left = tone(0.2, 24_000)
    wav = read_mono(write(tmp_path / "a.wav", np.stack([left, np.zeros_like(left)], axis=1), 24_000, "FLOAT"))
    assert np.allclose(wav, left / 2, atol=1e-6)


def test_long_files_are_read_in_small_blocks(tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", np.zeros((60 * 44_100, 2)), 44_100)
    blocks = list(stream_mono(path))
    assert max(map(len, blocks)) <= 6 * 24_000
    assert sum(map(len, blocks)) == pytest.approx(60 * 24_000, abs=2)


@pytest.mark.parametrize("extension", ["ogg", "mp3"])
def test_compressed_formats_are_read(tmp_path: Path, extension: str) -> None:
    wav = read_mono(write(tmp_path / f"a.{extension}", tone(1.0, 44_100), 44_100))
    assert len(wav) == pytest.approx(24_000, rel=0.1)


def write_damaged(folder: Path, kind: str) -> Path:
    """Write a file with one kind of damage and return its path."""
    path = folder / f"{kind}.wav"
    if kind == "empty file":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("this is no audio\n" * 50)
    elif kind == "no samples":
        write(path, np.zeros(0), 16_000)
    elif kind == "eight channels":
        write(path, np.zeros((100, 8)), 16_000)
    elif kind == "NaN":
        samples = tone(1.0, 24_000).astype(np.float32)
        samples[12_000] = np.nan
        write(path, samples, 24_000, "FLOAT")
    elif kind == "odd rate":
        write(path, np.zeros(100), 11)
    elif kind == "truncated FLAC":
        path = write(folder / "cut.flac", np.random.default_rng(0).standard_normal(40_000) * 0.1, 16_000)
        path.write_bytes(path.read_bytes()[:30_000])
    elif kind == "directory":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "stage", "words"),
    [
        ("empty file", "scan", "the file is empty"),
        ("text", "scan", "not audio"),
        ("no samples", "scan", "no samples"),
        ("eight channels", "scan", "8 channels"),
        ("odd rate", "scan", "11 Hz"),
        ("NaN", "decode", "NaN or infinite, the first at 0.500 s"),
        ("truncated FLAC", "decode", None),
        ("missing", "scan", "no such file"),
        ("directory", "scan", None),
    ],
)
def test_damage_is_named_with_its_stage(tmp_path: Path, kind: str, stage: str, words: str | None) -> None:
    with pytest.raises(AudioError, match=words) as caught:
        read_mono(write_damaged(tmp_path, kind))
    assert caught.value.stage == stage
    assert str(tmp_path) not in str(caught.value)  # the failure row already names its source


def test_mp3_without_a_declared_length_is_refused(tmp_path: Path) -> None:
    """Without the Info frame libsndfile guesses a length from the file size and silently stops there."""
    path = write(tmp_path / "a.mp3", tone(6.0, 44_100), 44_100)
    data = path.read_bytes()
    second = data.index(data[:2], 4)  # the next frame begins with the same sync word
    assert b"Info" in data[:second] or b"Xing" in data[:second]
    path.write_bytes(data[second:])
    with pytest.raises(AudioError, match="whose length is a guess"):
        probe(path)
    tag = b"ID3\x04\x00\x00" + bytes([0, 0, 0x0F, 0x00]) + bytes(0x0F * 128)
    path.write_bytes(tag + data)  # a tag before the first frame does not hide the length
    assert probe(path).duration_s == pytest.approx(6.0, abs=0.1)


def test_flac_of_unknown_length_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", tone(1.0, 16_000), 16_000)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # STREAMINFO's total samples: 36 bits from the low half of byte 21 on; 0 means unknown
    data[22:26] = bytes(4)
    path.write_bytes(data)
    with pytest.raises(AudioError, match=r"how long|no samples"):
        probe(path)


def test_probe_reads_only_the_header(tmp_path: Path) -> None:
    info = probe(write(tmp_path / "a.wav", np.zeros((8_000, 2)), 16_000))
    assert (info.sample_rate, info.channels, info.frames, info.duration_s) == (16_000, 2, 8_000, 0.5)
