"""Degradations of a recording: noise, a room, a telephone's band, MP3 and clipping. For tests of robustness.

Each is a function of the audio alone: its random numbers are seeded by a checksum of the samples.
"""

import io
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import soundfile
from scipy.signal import butter, oaconvolve, sosfilt

from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.treatment import Degradation

_BLOCK = 5 * SAMPLE_RATE
_TELEPHONE_HZ = (300.0, 3400.0)
_ROOM_DECAY_S, _FIRST_REFLECTION_S, _REVERBERANT_GAIN = 0.5, 0.008, 0.7
# Pink noise: white noise through these filters in parallel, within 0.5 dB of −3 dB per octave above 40 Hz at 24 kHz
# (Kellet's "economy" method, musicdsp.org/en/latest/Filters/76-pink-noise-filter.html).
_PINK_POLES, _PINK_GAINS, _PINK_DIRECT = (0.99765, 0.96300, 0.57000), (0.0990460, 0.2965164, 1.0526913), 0.1848
_CLIP_RMS = 1.5  # amplitude at which the signal is clipped, in root mean squares
_MP3_LEVEL = 0.845  # libsndfile's compression level for some 32 kbps at 24 kHz

Blocks = Iterator[np.ndarray]


@dataclass(frozen=True)
class _Measured:
    """The root mean square of a recording, and a checksum of its samples."""

    rms: float
    seed: int


def degraded(blocks: Callable[[], Blocks], degradation: Degradation) -> Blocks:
    """Yield the recording at 24 kHz that `blocks()` yields as float32 `[n]`, degraded; of the same length.

    noise-20, noise-10, noise-0: pink noise at that ratio in dB of the recording's power to its own; room: decaying
    reverberation to −60 dB in half a second; telephone: 300 to 3,400 Hz; mp3: through an MP3 of some 32 kbps; clipped:
    at one and a half times its root mean square. `blocks` is called a second time where the level is needed first.
    """
    if degradation == "none":
        return blocks()
    if degradation == "telephone":
        return _filtered(blocks())
    if degradation == "mp3":
        return _through_mp3(blocks())
    measured = _measure(blocks())
    if degradation == "clipped":
        ceiling = np.float32(_CLIP_RMS * measured.rms)
        return (np.clip(block, -ceiling, ceiling) for block in blocks())
    random = np.random.default_rng(measured.seed)
    if degradation == "room":
        return _in_a_room(blocks(), random)
    snr_db = float(degradation.removeprefix("noise-"))
    return _with_noise(blocks(), measured.rms * 10 ** (-snr_db / 20), random)


def _measure(blocks: Blocks) -> _Measured:
    energy, count, checksum = 0.0, 0, 0
    for block in blocks:
        energy += float(np.square(block, dtype=np.float64).sum())
        count += len(block)
        checksum = zlib.crc32(np.ascontiguousarray(block).tobytes(), checksum)
    return _Measured((energy / max(1, count)) ** 0.5, checksum)


def _with_noise(blocks: Blocks, rms: float, random: np.random.Generator) -> Blocks:
    """Add pink noise of a root mean square."""
    sections = np.array([[gain, 0, 0, 1, -pole, 0] for pole, gain in zip(_PINK_POLES, _PINK_GAINS, strict=True)])
    states = np.zeros((len(sections), 1, 2))
    scale = rms / _pink_rms()
    for block in blocks:
        white = random.standard_normal(len(block))
        pink = _PINK_DIRECT * white
        for i, section in enumerate(sections):
            filtered, states[i] = sosfilt(section[None], white, zi=states[i])
            pink += filtered
        yield (block + scale * pink).astype(np.float32)


@cache
def _pink_rms() -> float:
    """The root mean square of the filters' output for white noise of one: the norm of their joint impulse response."""
    response = np.zeros(_BLOCK)
    response[0] = _PINK_DIRECT
    for pole, gain in zip(_PINK_POLES, _PINK_GAINS, strict=True):
        response += gain * pole ** np.arange(_BLOCK)
    return float(np.linalg.norm(response))


def _in_a_room(blocks: Blocks, random: np.random.Generator) -> Blocks:
    """Add reverberation: noise that decays exponentially after the first reflection; the direct sound stays."""
    t = np.arange(int(_ROOM_DECAY_S * SAMPLE_RATE)) / SAMPLE_RATE
    response = random.standard_normal(len(t)) * np.exp(-np.log(1000) * t / _ROOM_DECAY_S)
    response[: int(_FIRST_REFLECTION_S * SAMPLE_RATE)] = 0
    response *= _REVERBERANT_GAIN / np.linalg.norm(response)
    response[0] = 1.0
    tail = np.zeros(len(response) - 1)
    for block in blocks:
        wet = oaconvolve(block.astype(np.float64), response)
        wet[: len(tail)] += tail
        yield wet[: len(block)].astype(np.float32)
        tail = wet[len(block) :]


def _filtered(blocks: Blocks) -> Blocks:
    sections = butter(4, _TELEPHONE_HZ, btype="bandpass", fs=SAMPLE_RATE, output="sos")
    state = np.zeros((len(sections), 2))
    for block in blocks:
        out, state = sosfilt(sections, block.astype(np.float64), zi=state)
        yield out.astype(np.float32)


def _through_mp3(blocks: Blocks) -> Blocks:
    """Encode as an MP3 in memory, 4 kB per second, and decode it; its header lets the decoder undo the delay."""
    file, samples = io.BytesIO(), 0
    kind = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "AVERAGE", "compression_level": _MP3_LEVEL}
    with soundfile.SoundFile(file, "w", SAMPLE_RATE, 1, **kind) as encoder:
        for block in blocks:
            encoder.write(block)
            samples += len(block)
    if not samples:
        return
    file.seek(0)
    with soundfile.SoundFile(file) as decoder:
        while samples:
            block = decoder.read(min(_BLOCK, samples), dtype="float32")
            if not len(block):
                yield np.zeros(samples, np.float32)
                return
            samples -= len(block)
            yield block
