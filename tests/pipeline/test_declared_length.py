"""Files with less or more audio than their header declares fail; tags, padding and open lengths are accepted."""

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.pipeline.audio import probe, read_mono
from whisper_gpt.pipeline.errors import AudioError

# Per format: the marker before the data size, the bytes from marker to size, the size's layout, and the bytes that the
# size counts in addition to the 64,000 of audio.
SIZES = {
    "WAV": (b"data", 4, "<I", 0),
    "AIFF": (b"SSND", 4, ">I", 8),
    "SVX": (b"BODY", 4, ">I", 0),
    "W64": (b"data", 16, "<Q", 24),
    "CAF": (b"data", 4, ">q", 4),
    "AU": (b".snd", 8, ">I", 0),
}
FORMATS = [*SIZES, "RF64", "NIST"]


def write(path: Path, kind: str, samples: int = 32_000) -> bytes:
    noise = np.random.default_rng(0).standard_normal(samples) * 0.1
    soundfile.write(str(path), noise, 16_000, "PCM_16", format=kind)
    return path.read_bytes()


def samples_in(path: Path, data: bytes) -> int:
    path.write_bytes(data)
    return probe(path).frames


def with_declared_size(data: bytes, kind: str, sound_bytes: int) -> bytes:
    marker, distance, layout, extra = SIZES[kind]
    at = data.index(marker) + distance
    size = struct.pack(layout, sound_bytes + extra)
    assert struct.unpack(layout, data[at : at + len(size)])[0] == 64_000 + extra
    return data[:at] + size + data[at + len(size) :]


@pytest.mark.parametrize("kind", FORMATS)
def test_truncated_file_fails(tmp_path: Path, kind: str) -> None:
    data = write(tmp_path / "a", kind)
    assert samples_in(tmp_path / "a", data) == 32_000
    with pytest.raises(AudioError, match=r"cut off: .* of the 64,0\d\d bytes") as caught:
        samples_in(tmp_path / "a", data[:-20_000])
    assert caught.value.stage == "scan"


@pytest.mark.parametrize("kind", FORMATS)
def test_two_concatenated_files_fail(tmp_path: Path, kind: str) -> None:
    with pytest.raises(AudioError, match=r"second file|bytes follow"):
        samples_in(tmp_path / "a", 2 * write(tmp_path / "a", kind))


@pytest.mark.parametrize("kind", SIZES)
def test_header_declaring_half_of_the_audio_fails(tmp_path: Path, kind: str) -> None:
    with pytest.raises(AudioError, match="bytes follow"):
        samples_in(tmp_path / "a", with_declared_size(write(tmp_path / "a", kind), kind, 32_000))


@pytest.mark.parametrize("size", [0x7FFFFFFF, 0x7FFFFFDB, 0xFFFFFFFF, 0xFFFFFFDC])
@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
def test_open_length_means_the_rest_of_the_file(tmp_path: Path, kind: str, size: int) -> None:
    data = with_declared_size(write(tmp_path / "a", kind), kind, size - SIZES[kind][3])
    assert samples_in(tmp_path / "a", data) == 32_000


@pytest.mark.parametrize("kind", ["WAV", "AU"])
def test_zero_length_followed_by_audio_fails(tmp_path: Path, kind: str) -> None:
    with pytest.raises(AudioError, match="declares no samples, but it is 64,0"):
        samples_in(tmp_path / "a", with_declared_size(write(tmp_path / "a", kind), kind, 0))


LIST = b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + struct.pack("<I", 14) + b"Lavf58.29.100\0"


@pytest.mark.parametrize(
    "tail",
    [LIST, LIST[:20], b"id3 \x0a\0\0\0" + bytes(10), b"TAG" + bytes(125), bytes(100_000), bytes(range(1, 31))],
    ids=["LIST", "a LIST that was cut off", "ID3 chunk", "ID3v1", "zeros", "a few bytes"],
)
def test_common_trailing_bytes_of_a_wav_are_ignored(tmp_path: Path, tail: bytes) -> None:
    assert samples_in(tmp_path / "a", write(tmp_path / "a", "WAV") + tail) == 32_000


@pytest.mark.parametrize("padding", [b"", b"\0"])
def test_odd_chunk_may_be_padded_or_not(tmp_path: Path, padding: bytes) -> None:
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(32_001), 16_000, "PCM_U8")
    data = (tmp_path / "a.wav").read_bytes()[: 44 + 32_001]
    assert samples_in(tmp_path / "a.wav", data + padding + LIST) == 32_001


def test_size_that_includes_the_header_is_accepted(tmp_path: Path) -> None:
    assert samples_in(tmp_path / "a", with_declared_size(write(tmp_path / "a", "WAV"), "WAV", 64_044)) == 32_000


def test_metadata_that_would_be_read_as_audio_fails(tmp_path: Path) -> None:
    """libsndfile reads everything after the header of a Wave64 as audio."""
    data = write(tmp_path / "a", "W64")
    chunk = b"levl" + data[20:32] + struct.pack("<Q", 1024) + b"\x55" * 1000
    with pytest.raises(AudioError, match="read as sound"):
        samples_in(tmp_path / "a", data + bytes(-len(data) % 8) + chunk)


@pytest.mark.parametrize("kind", ["WAV", "AIFF", "W64", "OGG", "FLAC"])
def test_leading_tag_is_skipped(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(0).standard_normal(48_000) * 0.1
    soundfile.write(str(tmp_path / "a"), noise, 24_000, format=kind)
    plain = read_mono(tmp_path / "a")
    tagged = b"ID3\x04\x00\x00\x00\x00\x08\x01" + bytes(1025) + (tmp_path / "a").read_bytes()
    assert samples_in(tmp_path / "a", tagged) == 48_000
    assert np.array_equal(read_mono(tmp_path / "a"), plain)


@pytest.mark.parametrize("kind", ["WAV", "AIFF"])
def test_leading_tag_does_not_hide_damage(tmp_path: Path, kind: str) -> None:
    tagged = b"ID3\x04\x00\x00\x00\x00\x08\x01" + bytes(1025) + write(tmp_path / "a", kind)
    for data in (tagged[:-20_000], tagged + tagged):
        with pytest.raises(AudioError, match=r"cut off|bytes follow"):
            samples_in(tmp_path / "a", data)


def test_second_data_chunk_of_a_wav_fails(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="second piece of sound"):
        samples_in(tmp_path / "a", write(tmp_path / "a", "WAV") + b"data" + struct.pack("<I", 1000) + b"\x09" * 1000)
