"""Blocks of 24 kHz audio in, segments of aligned codes and mel out: both of the same samples, frame for frame."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.codec import Codec
from pipeline.errors import AudioError
from pipeline.mel import LogMel

# Audio is encoded a second at a time, whatever the blocks it came in: equal audio, equal codes, to the last bit.
_CHUNK_FRAMES = 75
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

    The codec's and the mel's state run on from segment to segment, so where the cuts fall changes no value.
    Memory is that of one segment. Raises `AudioError` (stage `encode`) where the codec fails.
    """
    hop = codec.hop
    codec_state, mel_context = codec.encoder_start, log_mel.start()
    start = 0
    for wav in _rechunk(blocks, segment_frames * hop):
        samples = torch.from_numpy(np.pad(wav, (0, -len(wav) % hop)))
        codes, mel = [], []
        for chunk in samples.split(_CHUNK_FRAMES * hop):
            try:
                chunk_codes, codec_state = codec.encode_chunk(codec_state, chunk[None])
            except RuntimeError as error:
                raise AudioError("encode", f"the codec failed at {start / codec.sample_rate:.1f} s: {error}") from error
            chunk_mel, mel_context = log_mel.step(mel_context, chunk)
            codes.append(chunk_codes[0])
            mel.append(chunk_mel)
        yield Segment(
            start_sample=start,
            samples=len(wav),
            codes=torch.cat(codes, dim=-1).numpy(),
            mel=torch.cat(mel).numpy().astype(np.float16),
            peak_dbfs=_dbfs(float(np.abs(wav).max())),
            rms_dbfs=_dbfs(float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))),
            clipped_share=float(np.mean(np.abs(wav) >= CLIPPED_AT)),
        )
        start += len(wav)


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
