"""Encode blocks of 24 kHz audio into segments with aligned codes and mel: frame t of both covers the same samples."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from whisper_gpt.pipeline.codec.causal import CHUNK_FRAMES, Codec
from whisper_gpt.pipeline.codec.streaming import FULL_BATCH, StreamState, join
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_variants import MelState, MelVariants, with_lookahead
from whisper_gpt.pipeline.frames import frame_count

CLIPPED_AT = 0.999

# Recordings encoded as one batch; a GPU needs more of them to be busy.
_BATCH_SLOTS = {"cpu": FULL_BATCH, "cuda": 128}


@dataclass(frozen=True)
class Segment:
    """`codes` int16 `[K, T]` and `mel` float16 `[T, M]` of `samples` samples from `start_sample` on, at 24 kHz.

    `mel` is the first mel variant; `mel_variants` float16 `[V − 1, T, M]` holds the others.
    """

    start_sample: int
    samples: int
    codes: np.ndarray
    mel: np.ndarray
    mel_variants: np.ndarray
    peak_dbfs: float
    rms_dbfs: float
    clipped_share: float

    @property
    def mels(self) -> np.ndarray:
        """All mel variants, float16 `[V, T, M]`."""
        return np.concatenate([self.mel[None], self.mel_variants])


def align_recordings(
    recordings: Sequence[Iterable[np.ndarray]],
    codec: Codec,
    log_mel: LogMel,
    segment_frames: int,
    seconds: Sequence[float] = (),
) -> Iterator[Iterator[Segment]]:
    """Encode recordings (each in blocks `[n]`) and cut them into segments of `segment_frames` (the last one shorter).

    Yields one iterator over segments per recording, in order; exhaust it before requesting the next. It raises
    `AudioError` if reading that recording fails, and (stage `encode`) if a value is not finite.

    Each recording is encoded from its start, one second at a time. The state of codec and mel carries over, so neither
    the block sizes nor the cuts into segments change a value. Several recordings are encoded as one batch, which is
    faster; results ahead of their turn are kept as segments, not as audio. If `seconds` are given, the durations of
    the last recordings, some of these are started longest first, so that all batch slots are busy until the end.
    """
    order = _start_order(len(recordings), seconds, _BATCH_SLOTS[codec.device.type])
    batch = _BatchEncoder(recordings, order, codec, log_mel, segment_frames)
    for index in range(len(recordings)):
        yield batch.segments(index)


@dataclass(frozen=True)
class _Frames:
    """Some frames of a recording: `wav` `[≤ n · hop]`, `codes` `[K, n]`, `mel` `[n, V, M]`."""

    wav: np.ndarray
    codes: np.ndarray
    mel: np.ndarray


@dataclass
class _Slot:
    """A recording being encoded: its remaining chunks, the states, and frames that do not fill a segment yet."""

    index: int
    chunks: Iterator[tuple[np.ndarray, np.ndarray]]  # with the samples after each that a mel variant looks ahead to
    codec_state: StreamState
    mel_state: MelState
    frames: list[_Frames] = field(default_factory=list)
    start_frame: int = 0


class _BatchEncoder:
    """Encodes recordings in lock step, with one batch slot each, and keeps segments that were not requested yet."""

    def __init__(
        self,
        recordings: Sequence[Iterable[np.ndarray]],
        order: Sequence[int],
        codec: Codec,
        log_mel: LogMel,
        segment_frames: int,
    ):
        self._codec, self._mel, self._segment_frames = codec, MelVariants(codec, log_mel), segment_frames
        self._waiting = deque((index, recordings[index]) for index in order)
        self._slots: list[_Slot] = []
        self._max_slots = _BATCH_SLOTS[codec.device.type]
        self._chunk_samples = CHUNK_FRAMES * codec.hop
        # Per recording: its segments in order, then None at its end, or the error that ended it.
        self._outcomes: list[deque[Segment | AudioError | None]] = [deque() for _ in recordings]

    def segments(self, index: int) -> Iterator[Segment]:
        while True:
            while not self._outcomes[index]:
                self._step()
            outcome = self._outcomes[index].popleft()
            if outcome is None:
                return
            if isinstance(outcome, AudioError):
                raise outcome
            yield outcome

    def _step(self) -> None:
        """Encode the next chunk of every slot; waiting recordings take the slots of finished ones first."""
        ready = [(slot, *read) for slot in self._slots if (read := self._read(slot)) is not None]
        while len(ready) < self._max_slots and self._waiting:
            index, blocks = self._waiting.popleft()
            chunks = with_lookahead(_rechunk(blocks, self._chunk_samples), self._mel.lookahead)
            slot = _Slot(index, chunks, self._codec.encoder_start, self._mel.start)
            if (read := self._read(slot)) is not None:
                ready.append((slot, *read))
        self._slots = []
        if not ready:
            return
        slots, wavs, ahead = (list(column) for column in zip(*ready, strict=True))
        # A shorter chunk is its recording's last: the zeros after it change nothing before them.
        padded = np.stack([np.pad(wav, (0, self._chunk_samples - len(wav))) for wav in wavs])
        batch, following = (torch.from_numpy(array).to(self._codec.device) for array in (padded, np.stack(ahead)))
        codes, states = self._codec.encode_chunk(join([slot.codec_state for slot in slots]), batch)
        mels, mel_states = self._mel.step([slot.mel_state for slot in slots], codes, batch, following)
        codes, mels_fp16 = codes.cpu(), mels.half().cpu().numpy()
        for row, (slot, wav) in enumerate(zip(slots, wavs, strict=True)):
            slot.codec_state, slot.mel_state = states[row : row + 1], mel_states[row]
            frames = frame_count(len(wav))
            mel = mels_fp16[row, :frames]
            if not np.isfinite(mel).all():
                largest = f"{np.abs(wav).max():.3g}"
                error = AudioError("encode", f"samples as large as {largest} have no finite mel; scale it to ±1")
                self._outcomes[slot.index].append(error)
                continue
            slot.frames.append(_Frames(wav, codes[row, :, :frames].numpy(), mel))
            self._cut_segments(slot)
            self._slots.append(slot)

    def _read(self, slot: _Slot) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the slot's next chunk and the samples after it; None if its recording has ended or failed."""
        try:
            read = next(slot.chunks, None)
        except AudioError as error:
            self._outcomes[slot.index].append(error)
            return None
        if read is None:
            if slot.frames:
                self._outcomes[slot.index].append(_segment(slot.start_frame * self._codec.hop, _join(slot.frames)))
            self._outcomes[slot.index].append(None)
        return read

    def _cut_segments(self, slot: _Slot) -> None:
        length = self._segment_frames
        while sum(len(frames.mel) for frames in slot.frames) >= length:
            whole = _join(slot.frames)
            segment = _segment(slot.start_frame * self._codec.hop, _cut(whole, 0, length, self._codec.hop))
            self._outcomes[slot.index].append(segment)
            slot.start_frame += length
            rest = _cut(whole, length, len(whole.mel), self._codec.hop)
            slot.frames = [rest] if len(rest.mel) else []


def _start_order(count: int, last_seconds: Sequence[float], slots: int) -> list[int]:
    """Return the order in which `count` recordings are started: as given, but of those whose durations are known, which
    are the last ones, the last three per slot longest first."""
    order, known = list(range(count)), count - len(last_seconds)
    first = max(known, count - 3 * slots)
    return order[:first] + sorted(order[first:], key=lambda index: -last_seconds[index - known])


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
        mel=frames.mel[:, 0],
        mel_variants=frames.mel[:, 1:].swapaxes(0, 1),
        peak_dbfs=_dbfs(float(np.abs(wav).max())),
        rms_dbfs=_dbfs(float(np.sqrt(np.mean(np.square(wav, dtype=np.float64))))),
        clipped_share=float(np.mean(np.abs(wav) >= CLIPPED_AT)),
    )


def _rechunk(blocks: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:
    """Yield the same samples in arrays of `size`; the last one may be shorter, but is never empty."""
    pending: list[np.ndarray] = []
    n_pending = 0
    for block in blocks:
        while n_pending + len(block) >= size:
            cut = size - n_pending
            yield np.concatenate([*pending, block[:cut]])
            pending, n_pending, block = [], 0, block[cut:]
        pending.append(block)
        n_pending += len(block)
    if n_pending:
        yield np.concatenate(pending)


def _dbfs(amplitude: float) -> float:
    """Return the level relative to full scale, in dB; digital silence is −120."""
    return 20 * float(np.log10(max(amplitude, 1e-6)))
