"""Files of several concatenated streams: every stream is read, or the recording fails and says what is missing."""

import contextlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.pipeline.audio import read_mono, stream_mono
from whisper_gpt.pipeline.errors import AudioError

Damage = Callable[[bytes], bytes]
KINDS = {"vorbis": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", None), "flac": ("FLAC", "PCM_24")}


def encoded(folder: Path, kind: str, seconds: float = 2.0, rate: int = 16_000, channels: int = 1) -> bytes:
    container, subtype = KINDS[kind]
    noise = np.random.default_rng(0).standard_normal((round(rate * seconds), channels)) * 0.1
    soundfile.write(str(folder / "part"), noise, rate, subtype, format=container)
    return (folder / "part").read_bytes()


def seconds_of(folder: Path, data: bytes) -> float:
    (folder / "joined").write_bytes(data)
    return len(read_mono(folder / "joined")) / 24_000


@pytest.mark.parametrize("kind", KINDS)
def test_every_stream_of_a_chain_is_read(tmp_path: Path, kind: str) -> None:
    parts = [encoded(tmp_path, kind, 2.0), encoded(tmp_path, kind, 1.0, channels=2), encoded(tmp_path, kind, 3.0)]
    assert seconds_of(tmp_path, b"".join(parts)) == pytest.approx(6.0, abs=0.01)
    assert seconds_of(tmp_path, parts[0] + parts[0]) == pytest.approx(4.0, abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
def test_chained_streams_decode_as_they_do_alone(tmp_path: Path, kind: str) -> None:
    part = encoded(tmp_path, kind, rate=24_000)
    alone = read_mono(tmp_path / "part")
    seconds_of(tmp_path, part + part)
    assert np.array_equal(read_mono(tmp_path / "joined"), np.concatenate([alone, alone]))


def test_long_chain_is_read_in_small_blocks(tmp_path: Path) -> None:
    (tmp_path / "long.ogg").write_bytes(encoded(tmp_path, "vorbis", 20.0) * 6)
    blocks = list(stream_mono(tmp_path / "long.ogg"))
    assert max(map(len, blocks)) <= 6 * 24_000
    assert sum(map(len, blocks)) == pytest.approx(120 * 24_000, abs=10)


def test_streams_of_different_rates_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="16000 and 48000 Hz"):
        seconds_of(tmp_path, encoded(tmp_path, "vorbis") + encoded(tmp_path, "opus", rate=48_000))


def flip_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x10]) + data[middle + 1 :]


def drop_last_page(data: bytes) -> bytes:
    return data[: data.rindex(b"OggS")]


def drop_middle_page(data: bytes) -> bytes:
    page_starts = [at for at in range(len(data)) if data[at : at + 5] == b"OggS\0"]
    return data[: page_starts[2]] + data[page_starts[3] :]


@pytest.mark.parametrize("kind", ["vorbis", "opus"])
@pytest.mark.parametrize("damage", [flip_bit, drop_last_page, drop_middle_page])
def test_ogg_with_a_damaged_or_missing_page_fails(tmp_path: Path, kind: str, damage: Damage) -> None:
    part = encoded(tmp_path, kind, 8.0)
    for data in (damage(part), damage(part) + part, part + damage(part)):
        with pytest.raises(AudioError):
            seconds_of(tmp_path, data)


def id3v2(count: int) -> bytes:
    """Return an ID3v2 tag of `count` KiB."""
    return b"ID3\x04\x00\x00" + bytes([0, 0, count << 3, 0]) + bytes(count << 10)


def ape_tag(data: bytes) -> bytes:
    return b"APETAGEX" + struct.pack("<IIII8x", 2000, len(data) + 32, 1, 0xA0000000) + data + bytes(32)


ID3V1 = b"TAG" + bytes(125)


def test_tags_and_padding_are_not_decoded_as_audio(tmp_path: Path) -> None:
    mp3 = encoded(tmp_path, "mp3", 4.0, rate=44_100)
    picture = mp3[10_000:20_000]  # a tag may contain bytes that look like frames
    for data in (id3v2(3) + mp3 + ID3V1, mp3 + ape_tag(picture) + ID3V1, mp3 + bytes(5000), mp3 + b"\x55" * 3000):
        assert seconds_of(tmp_path, data) == pytest.approx(4.0, abs=0.01)
    assert seconds_of(tmp_path, 2 * (id3v2(3) + mp3 + ID3V1)) == pytest.approx(8.0, abs=0.01)
    for kind in ("vorbis", "flac"):
        assert seconds_of(tmp_path, encoded(tmp_path, kind) + ID3V1) == pytest.approx(2.0, abs=0.01)


def declare_half(mp3: bytes) -> bytes:
    """Make the Xing header declare half of the frames."""
    at = mp3.index(b"Xing") + 8
    return mp3[:at] + struct.pack(">I", struct.unpack(">I", mp3[at : at + 4])[0] // 2) + mp3[at + 4 :]


def remove_frame_count(mp3: bytes) -> bytes:
    """Remove the frame count from the Xing header."""
    at = mp3.index(b"Xing") + 7
    return mp3[:at] + bytes([mp3[at] & 0xFE]) + mp3[at + 1 :]


def append_frames(mp3: bytes) -> bytes:
    """Append the frames once more, without a header."""
    return mp3 + mp3[mp3.index(mp3[:2], 4) :]


@pytest.mark.parametrize("damage", [declare_half, remove_frame_count, append_frames])
def test_mp3_with_more_frames_than_declared_fails(tmp_path: Path, damage: Damage) -> None:
    with pytest.raises(AudioError, match=r"only .* samples were decoded"):
        seconds_of(tmp_path, damage(encoded(tmp_path, "mp3", 4.0, rate=44_100, channels=2)))


def flac_with_declared_samples(data: bytes, samples: int) -> bytes:
    return data[:21] + bytes([data[21] & 0xF0]) + struct.pack(">I", samples) + data[26:]


@pytest.mark.parametrize(("samples", "words"), [(16_000, "MD5"), (31_999, "MD5"), (48_000, "ends before")])
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "PCM_S8"])
def test_flac_with_a_wrong_sample_count_fails(tmp_path: Path, samples: int, words: str, subtype: str) -> None:
    noise = np.random.default_rng(0).standard_normal((32_000, 2)) * 0.1
    soundfile.write(str(tmp_path / "a.flac"), noise, 16_000, subtype)
    data = (tmp_path / "a.flac").read_bytes()
    assert seconds_of(tmp_path, data) == 2.0
    with pytest.raises(AudioError, match=words):
        seconds_of(tmp_path, flac_with_declared_samples(data, samples))


def test_flac_without_md5_is_read(tmp_path: Path) -> None:
    data = encoded(tmp_path, "flac")
    assert seconds_of(tmp_path, data[:26] + bytes(16) + data[42:]) == 2.0


def test_flac_with_a_wrong_block_length_fails(tmp_path: Path) -> None:
    data = encoded(tmp_path, "flac")
    with pytest.raises(AudioError):
        seconds_of(tmp_path, data[:7] + b"\x24" + data[8:])


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_gives_samples_or_an_audio_error(tmp_path: Path, kind: str) -> None:
    """No byte of a file can cause another exception."""
    whole, random = 2 * encoded(tmp_path, kind, 0.2), np.random.default_rng(0)
    for _ in range(150):
        data = bytearray(whole)
        for at in random.integers(0, len(data) if random.random() < 0.5 else 60, 4):
            data[at] = random.integers(256)
        with contextlib.suppress(AudioError):
            seconds_of(tmp_path, bytes(data[: random.integers(30, len(data))]))
