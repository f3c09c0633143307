"""Blocks of 24 kHz audio in, segments of aligned codes and mel out: both of the same samples, frame for frame."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.codec.causal import CHUNK_FRAMES, Codec
from pipeline.errors import AudioError
from pipeline.mel import LogMel

CLIPPED_AT = 0.999


@dataclass(frozen=True)
class Segment:
    """`codes` int16 `[K, T]` and `mel` float16 `[T, M]` of `samples` samples from `start_sample` on, at 24 kHz."""

    start_sample: int
    samples: int
    codes: np.ndarray
    mel: np.ndarray
    peak_dbfs: float
    rms_dbfs: float
    clipped_share: float


def align_segments(
    blocks: Iterable[np.ndarray], codec: Codec, log_mel: LogMel, segment_frames: int
) -> Iterator[Segment]:
    """Encode a recording in a stream and cut it into segments of `segment_frames` (the last one shorter).

    Encoding goes a second at a time from the recording's start, and the codec's and the mel's state run on, so that
    neither the blocks the audio came in nor where it is cut into segments changes a value. Memory is that of one
    segment. Raises `AudioError` (stage `encode`) where a value is not finite.
    """
    start = 0
    pending: list[_Frames] = []
    for frames in _encode(blocks, codec, log_mel):
        pending.append(frames)
        while sum(len(p.mel) for p in pending) >= segment_frames:
            whole = _join(pending)
            yield _segment(start * codec.hop, _cut(whole, 0, segment_frames, codec.hop))
            start += segment_frames
            rest = _cut(whole, segment_frames, len(whole.mel), codec.hop)
            pending = [rest] if len(rest.mel) else []
    if pending:
        yield _segment(start * codec.hop, _join(pending))


@dataclass(frozen=True)
class _Frames:
    """Some frames of a recording: `wav` `[≤ n · hop]`, `codes` `[K, n]`, `mel` `[n, M]`."""

    wav: np.ndarray
    codes: np.ndarray
    mel: np.ndarray


def _encode(blocks: Iterable[np.ndarray], codec: Codec, log_mel: LogMel) -> Iterator[_Frames]:
    """The frames of a recording, a chunk at a time."""
    codec_state, mel_context = codec.encoder_start, log_mel.start()
    for wav in _rechunk(blocks, CHUNK_FRAMES * codec.hop):
        samples = torch.from_numpy(np.pad(wav, (0, -len(wav) % codec.hop)))
        codes, codec_state = codec.encode_chunk(codec_state, samples[None])
        mel, mel_context = log_mel.step(mel_context, samples)
        half = mel.numpy().astype(np.float16)
        if not np.isfinite(half).all():
            raise AudioError(
                "encode", f"samples as large as {np.abs(wav).max():.3g} have no finite mel; scale it to ±1"
            )
        yield _Frames(wav, codes[0].numpy(), half)


def _join(parts: list[_Frames]) -> _Frames:
    return _Frames(
        np.concatenate([p.wav for p in parts]),
        np.concatenate([p.codes for p in parts], axis=1),
        np.concatenate([p.mel for p in parts]),
    )


def _cut(frames: _Frames, begin: int, end: int, hop: int) -> _Frames:
    return _Frames(frames.wav[begin * hop : end * hop], frames.codes[:, begin:end], frames.mel[begin:end])


def _segment(start_sample: int, frames: _Frames) -> Segment:
    wav = frames.wav
    return Segment(
        start_sample=start_sample,
        samples=len(wav),
        codes=frames.codes,
        mel=frames.mel,
        peak_dbfs=_dbfs(float(np.abs(wav).max())),
        rms_dbfs=_dbfs(float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))),
        clipped_share=float(np.mean(np.abs(wav) >= CLIPPED_AT)),
    )


def _rechunk(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """The same samples in arrays of `size`, the last one shorter; never an empty one."""
    pending: list[np.ndarray] = []
    held = 0
    for block in blocks:
        while held + len(block) >= size:
            cut = size - held
            yield np.concatenate([*pending, block[:cut]])
            pending, held, block = [], 0, block[cut:]
        pending.append(block)
        held += len(block)
    if held:
        yield np.concatenate(pending)


def _dbfs(amplitude: float) -> float:
    """Decibels below full scale; digital silence is −120."""
    return 20 * float(np.log10(max(amplitude, 1e-6)))
