"""Read any audio file that libsndfile supports as one 24 kHz mono float32 signal, in blocks of constant size."""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from whisper_gpt.pipeline.chained_audio import MP3_SLACK, Stream, find_streams, skip_tag
from whisper_gpt.pipeline.declared_length import SLACK_BYTES, declared_bytes
from whisper_gpt.pipeline.degradation import degraded
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.resampling import resampled
from whisper_gpt.pipeline.treatment import USUAL, Treatment

# What libsndfile reads, except for extensions that mostly mean something else (.mat, .htk, .xi).
EXTENSIONS = (
    *(".flac", ".wav", ".wave", ".bwf", ".rf64", ".w64", ".aiff", ".aif", ".aifc", ".caf", ".au", ".snd"),
    *(".ogg", ".oga", ".opus", ".mp3", ".sph", ".nist", ".voc", ".svx", ".8svx", ".16svx", ".paf", ".pvf"),
    *(".sf", ".ircam", ".avr"),
)

# Outside this range the header is wrong, and a resampler that used it would exhaust the memory.
_PLAUSIBLE_RATES = range(4_000, 768_001)
_UNKNOWN_FRAMES = 2**40
# FLAC's best case: silence, in blocks of 65,535 samples that take 11 bytes each.
_MAX_SAMPLES_PER_BYTE = 6_000
_SAMPLE_BYTES = {"PCM_S8": 1, "PCM_U8": 1, "PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
_BLOCK_S = 5.0
_EMPTY_BYTES = 1000  # upper limit for the size of a header without samples


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header declares: `frames` counts samples per channel at `sample_rate` Hz."""

    sample_rate: int
    channels: int
    frames: int
    kind: str = ""  # libsndfile's name of the format

    @property
    def duration_s(self) -> float:
        return self.frames / self.sample_rate


def probe(path: Path) -> AudioInfo:
    """Read the header of the file `path`. Raises `AudioError` (stage `scan`) if it is not usable audio."""
    try:
        with path.open("rb") as file:
            return probe_file(file)
    except OSError as error:
        raise AudioError("scan", _reason(path, error)) from error


def probe_file(file: BinaryIO) -> AudioInfo:
    """Read the header of an open file, local or remote.

    Raises `AudioError` (stage `scan`) if it is not usable audio; errors of reading `file` itself propagate.
    """
    size = file.seek(0, io.SEEK_END)
    if size == 0:
        raise AudioError("scan", "the file is empty")
    declared = declared_bytes(file)
    # After a tag libsndfile reads a WAV short by the length of the tag, and other formats not at all.
    reading = _Reading(file, skip_tag(file, 0))
    try:
        info = soundfile.info(reading)
    except soundfile.LibsndfileError as error:
        if reading.error is None:
            raise AudioError("scan", _message(error)) from error
    if reading.error is not None:
        raise reading.error
    if info.samplerate not in _PLAUSIBLE_RATES:
        raise AudioError("scan", f"sample rate {info.samplerate} Hz is outside 4 kHz to 768 kHz")
    if info.channels > 2:
        raise AudioError("scan", f"{info.channels} channels: only mono and stereo are read; downmix it first")
    if info.frames <= 0:
        much = f"its header declares no samples, but it is {size:,} bytes long; was it cut off, or written to a pipe?"
        raise AudioError("scan", much if size > _EMPTY_BYTES else "the file holds no samples")
    if info.frames > _UNKNOWN_FRAMES:
        raise AudioError("scan", "the header does not say how long it is (a FLAC written to a pipe?); write it again")
    if info.frames > size * _MAX_SAMPLES_PER_BYTE:
        raise AudioError("scan", f"the header declares {info.frames} samples, far more than {size} bytes can hold")
    read = info.frames * info.channels * _SAMPLE_BYTES.get(info.subtype, 0)
    if declared is not None and read > declared + SLACK_BYTES:
        raise AudioError("scan", f"{read - declared:,} bytes after the sound would be read as sound; convert it")
    if info.format == "MP3" and not _mp3_declares_its_length(file):
        raise AudioError("scan", "an MP3 without a Xing, Info or VBRI header, whose length is a guess; convert it")
    return AudioInfo(info.samplerate, info.channels, info.frames, info.format)


def stream_mono(path: Path, sample_rate: int = SAMPLE_RATE, treatment: Treatment = USUAL) -> Iterator[np.ndarray]:
    """Yield the whole of `path` as float32 blocks `[n]`, downmixed to mono and resampled once.

    `treatment` may play it faster, with pitch and formants raised as much, take another resampler, and degrade it.

    Memory does not grow with the file. Streams chained in one file are read in sequence. Raises `AudioError`
    (stage `decode` or `resample`) if the file is damaged, if a sample is not finite, and if the decoded samples are not
    those that the file declares and contains.
    """
    info = probe(path)
    source_rate = info.sample_rate * treatment.speed

    def blocks() -> Iterator[np.ndarray]:
        return resampled(_decoded_blocks(path, info), source_rate, sample_rate, treatment.resampler)

    yield from degraded(blocks, treatment.degradation)


def read_mono(path: Path, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read the whole of `path` as one float32 signal `[N]`; see `stream_mono`."""
    return np.concatenate([np.zeros(0, np.float32), *stream_mono(path, sample_rate)])


def read_part(path: Path, first: int, samples: int, treatment: Treatment = USUAL) -> np.ndarray:
    """Read `samples` samples from `first` on, of the signal that `stream_mono` gives at 24 kHz, and nothing after them.

    Fewer are returned if the signal ends before.
    """
    kept, position = [np.zeros(0, np.float32)], 0
    for block in stream_mono(path, treatment=treatment):
        kept.append(block[max(0, first - position) : max(0, first + samples - position)])
        position += len(block)
        if position >= first + samples:
            break
    return np.concatenate(kept)


def _decoded_blocks(path: Path, info: AudioInfo) -> Iterator[np.ndarray]:
    """Yield the mono blocks of all streams in the file, at the rate of the first."""
    try:
        with path.open("rb") as file:
            streams = find_streams(file, info.kind)
            if len(streams) == 1 and streams[0].begin == 0:
                with soundfile.SoundFile(str(path)) as sound:
                    yield from _decoded_stream(sound, streams[0])
                return
            for stream in streams:
                reading = _Reading(file, stream.begin, stream.end)
                with soundfile.SoundFile(reading) as sound:
                    if sound.samplerate != info.sample_rate:
                        rates = f"{info.sample_rate} and {sound.samplerate} Hz"
                        raise AudioError("decode", f"streams of {rates} in one file; split it, or convert it")
                    yield from _decoded_stream(sound, stream)
                if reading.error is not None:
                    raise reading.error
    except (soundfile.LibsndfileError, OSError) as error:
        raise AudioError("decode", _reason(path, error)) from error


def _decoded_stream(sound: soundfile.SoundFile, stream: Stream) -> Iterator[np.ndarray]:
    """Yield the mono blocks of one stream; check them against its header and its container."""
    frames_read, md5 = 0, hashlib.md5(usedforsecurity=False)
    while len(block := sound.read(int(_BLOCK_S * sound.samplerate), dtype="float32", always_2d=True)):
        if not np.isfinite(block).all():
            first_s = (frames_read + int(np.argmin(np.isfinite(block).all(axis=1)))) / sound.samplerate
            raise AudioError("decode", f"samples that are NaN or infinite, the first at {first_s:.3f} s")
        if stream.md5:
            md5.update(_as_pcm(block, stream.width))
        frames_read += len(block)
        yield block.mean(axis=1) if sound.channels > 1 else block[:, 0]
    slack = MP3_SLACK if sound.format == "MP3" else 0
    if abs(frames_read - sound.frames) > slack:
        raise AudioError("decode", f"ends after {frames_read} of the {sound.frames} samples its header declares")
    if frames_read < stream.samples:
        raise AudioError("decode", f"only {frames_read} samples were decoded, but at least {stream.samples} are there")
    if stream.md5 and md5.digest() != stream.md5:
        raise AudioError("decode", "the samples are not those of its MD5: damaged, or longer than its header declares")


def _as_pcm(block: np.ndarray, width: int) -> bytes:
    """Convert float samples to little-endian integers of `width` bytes, exact up to 24 bits."""
    integers = (block * np.float32(1 << 8 * width - 1)).astype("<i4")
    return integers.view(np.uint8).reshape(-1, 4)[:, :width].tobytes()


class _Reading:
    """A file object for libsndfile over the bytes from `begin` to `end` of `file`.

    Exceptions cannot pass through libsndfile, so the first one is stored in `error`, and reads then return no bytes.
    """

    def __init__(self, file: BinaryIO, begin: int = 0, end: int | None = None):
        self._file, self._begin = file, begin
        self._end = file.seek(0, io.SEEK_END) if end is None else end
        self._at = 0
        self.error: Exception | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end - self._begin}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int) -> bytes:
        try:
            place = self._begin + self._at
            self._file.seek(place)
            data = b"" if self.error else self._file.read(max(0, min(size, self._end - place)))
        except Exception as error:
            self.error, data = error, b""
        self._at += len(data)
        return data


def _mp3_declares_its_length(file: BinaryIO) -> bool:
    """Return whether the first frame is a Xing, Info or VBRI header.

    Without one libsndfile guesses the length from the file size, and silently stops reading there.
    """
    file.seek(skip_tag(file, 0))  # a tag may lie before the audio
    frame = file.read(4096)
    return any(mark in frame for mark in (b"Xing", b"Info", b"VBRI"))


def _reason(path: Path, error: Exception) -> str:
    """Return why a file cannot be read, without its path: a failure row has the source in another column."""
    if isinstance(error, FileNotFoundError) or not path.exists():
        return "no such file"
    if isinstance(error, soundfile.LibsndfileError):
        return _message(error)
    return (getattr(error, "strerror", None) or str(error)).replace(str(path), path.name)


def _message(error: soundfile.LibsndfileError) -> str:
    """Return libsndfile's message, or a clearer one for its vague ones."""
    if "Format not recognised" in error.error_string:
        return "not audio in a format that libsndfile knows"
    if "psf_fseek" in error.error_string:
        return "ends before all the samples that its header declares: cut off, or the header is wrong"
    if "Unspecified" in error.error_string:
        return "damaged: the decoder cannot make sense of what is in it"
    return error.error_string
