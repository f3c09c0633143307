"""Reading audio: any file libsndfile knows → one 24 kHz mono float32 signal, in blocks of constant size."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from whisper_gpt.pipeline.errors import AudioError

SAMPLE_RATE = 24_000
EXTENSIONS = (".flac", ".wav", ".ogg", ".mp3")

# Outside this range a header is lying, and a resampler told to believe it would fill the memory.
_PLAUSIBLE_RATES = range(4_000, 768_001)
_UNKNOWN_FRAMES = 2**40
# FLAC's best case: silence, in blocks of 65,535 samples that take 11 bytes each.
_MOST_SAMPLES_A_BYTE = 6_000
_BLOCK_S = 5.0


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header declares: `frames` counts samples per channel at `sample_rate` Hz."""

    sample_rate: int
    channels: int
    frames: int

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate


def probe(path: Path) -> AudioInfo:
    """Read the header of the file `path`. Raises `AudioError` (stage `scan`) where there is nothing usable."""
    try:
        with path.open("rb") as file:
            return probe_file(file)
    except OSError as error:
        raise AudioError("scan", _reason(path, error)) from error


def probe_file(file: BinaryIO) -> AudioInfo:
    """Read the header of an open file, wherever it lies. Raises `AudioError` (stage `scan`) where there is nothing
    usable, and what the file itself raises."""
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise AudioError("scan", "the file is empty")
    file.seek(0)
    reading = _Reading(file)
    try:
        info = soundfile.info(reading)
    except soundfile.LibsndfileError as error:
        if reading.error is None:
            raise AudioError("scan", _words(error)) from error
    if reading.error is not None:
        raise reading.error
    if info.samplerate not in _PLAUSIBLE_RATES:
        raise AudioError("scan", f"sample rate {info.samplerate} Hz is outside 4 kHz to 768 kHz")
    if info.channels > 2:
        raise AudioError("scan", f"{info.channels} channels: only mono and stereo are read; downmix it first")
    if info.frames <= 0:
        raise AudioError("scan", "the file holds no samples")
    if info.frames > _UNKNOWN_FRAMES:
        raise AudioError("scan", "the header does not say how long it is (a FLAC written to a pipe?); write it again")
    if info.frames > size * _MOST_SAMPLES_A_BYTE:
        raise AudioError("scan", f"the header declares {info.frames} samples, far more than {size} bytes can hold")
    if info.format == "MP3" and not _mp3_declares_its_length(file):
        raise AudioError("scan", "an MP3 without a Xing, Info or VBRI header, whose length is a guess; convert it")
    return AudioInfo(info.samplerate, info.channels, info.frames)


def stream_mono(path: Path, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """Yield the whole of `path` as float32 blocks `[n]`, downmixed to mono and resampled once (soxr HQ).

    Memory does not grow with the file. Raises `AudioError` (stage `decode` or `resample`) for damage,
    for samples that are not finite, and where the file ends before its header says.
    """
    info = probe(path)
    resampler = None
    if info.sample_rate != sample_rate:
        resampler = soxr.ResampleStream(info.sample_rate, sample_rate, 1, dtype="float32", quality="HQ")
    for block in _decoded_blocks(path, info):
        if resampler is not None:
            block = _resample(resampler, block, last=False)
        if len(block):
            yield block
    if resampler is not None:
        tail = _resample(resampler, np.zeros(0, np.float32), last=True)
        if len(tail):
            yield tail


def read_mono(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """The whole of `path` as one float32 signal `[N]`; see `stream_mono`."""
    return np.concatenate([np.zeros(0, np.float32), *stream_mono(path, sample_rate)])


def _decoded_blocks(path: Path, info: AudioInfo) -> Iterator[np.ndarray]:
    frames_read = 0
    try:
        with soundfile.SoundFile(str(path)) as file:
            while len(block := file.read(int(_BLOCK_S * info.sample_rate), dtype="float32", always_2d=True)):
                if not np.isfinite(block).all():
                    where = (frames_read + int(np.argmin(np.isfinite(block).all(axis=1)))) / info.sample_rate
                    raise AudioError("decode", f"samples that are NaN or infinite, the first at {where:.3f} s")
                frames_read += len(block)
                yield block.mean(axis=1) if info.channels > 1 else block[:, 0]
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError("decode", _reason(path, error)) from error
    # MP3 counts in frames of 1,152 samples, and encoders declare their own delay in different ways.
    slack = 2 * 1152 if path.suffix.lower() == ".mp3" else 0
    if abs(frames_read - info.frames) > slack:
        raise AudioError("decode", f"ends after {frames_read} of the {info.frames} samples its header declares")


class _Reading:
    """A file for libsndfile, through which no exception could pass: the first one is kept, and the file ends there."""

    def __init__(self, file: BinaryIO):
        self.seek, self.tell, self._file = file.seek, file.tell, file
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        try:
            return b"" if self.error else self._file.read(size)
        except Exception as error:
            self.error = error
            return b""


def _mp3_declares_its_length(file: BinaryIO) -> bool:
    """Whether the first frame is a Xing, Info or VBRI header. Without one libsndfile guesses the length from the size,
    and silently stops reading there."""
    file.seek(0)
    head = file.read(10)
    # A tag may lie before the audio; its size is four bytes of seven bits.
    tagged = head[:3] == b"ID3"
    file.seek(10 + sum(byte << 7 * place for place, byte in enumerate(reversed(head[6:10]))) if tagged else 0)
    frame = file.read(4096)
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


def _resample(resampler: soxr.ResampleStream, block: np.ndarray, last: bool) -> np.ndarray:
    try:
        return resampler.resample_chunk(np.ascontiguousarray(block), last=last)
    except (RuntimeError, ValueError) as error:
        raise AudioError("resample", str(error)) from error


def _reason(path: Path, error: Exception) -> str:
    """Why a file cannot be read, without its path: a failure row names its source in another column."""
    if isinstance(error, FileNotFoundError) or not path.exists():
        return "no such file"
    if isinstance(error, soundfile.LibsndfileError):
        return _words(error)
    return (getattr(error, "strerror", None) or str(error)).replace(str(path), path.name)


def _words(error: soundfile.LibsndfileError) -> str:
    """libsndfile's own words, but for a file in which it found no format."""
    if "Format not recognised" in error.error_string:
        return f"not audio that can be read ({', '.join(EXTENSIONS)})"
    return error.error_string
