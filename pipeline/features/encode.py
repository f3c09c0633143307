"""Blocks of 24 kHz audio in, segments of aligned codes and mel out: both of the same samples, frame for frame."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from whisper_gpt.pipeline.codec.causal import CHUNK_FRAMES, Codec
from whisper_gpt.pipeline.codec.streaming import StreamState, join
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_variants import MelViews, ViewState, with_lookahead
from whisper_gpt.pipeline.frames import frame_count

CLIPPED_AT = 0.999

# Recordings encoded side by side. On a CPU one reading of the LSTM's 16 MB of weights serves all, and past 8 little is
# won; a GPU needs more of them to be busy.
_LANES = {"cpu": 8, "cuda": 128}


@dataclass(frozen=True)
class Segment:
    """`codes` int16 `[K, T]` and `mel` float16 `[T, M]` of `samples` samples from `start_sample` on, at 24 kHz;
    `mel_views` float16 `[V − 1, T, M]` are the mel's other views."""

    start_sample: int
    samples: int
    codes: np.ndarray
    mel: np.ndarray
    mel_views: np.ndarray
    peak_dbfs: float
    rms_dbfs: float
    clipped_share: float

    @property
    def mels(self) -> np.ndarray:
        """All views of the mel, float16 `[V, T, M]`."""
        return np.concatenate([self.mel[None], self.mel_views])


def align_recordings(
    recordings: Sequence[Iterable[np.ndarray]],
    codec: Codec,
    log_mel: LogMel,
    segment_frames: int,
    seconds: Sequence[float] | None = None,
) -> Iterator[Iterator[Segment]]:
    """Encode recordings (each in blocks `[n]`) and cut them into segments of `segment_frames` (the last one shorter).

    Yields an iterator over the segments of each recording in turn; it is to be used up before the next is asked for.
    It raises `AudioError` where reading that recording does, and (stage `encode`) where a value is not finite.

    A recording is encoded a second at a time from its start, and the codec's and the mel's state run on, so that
    neither the blocks the audio came in nor where it is cut into segments changes a value. Several recordings are
    encoded side by side, which is faster; what that puts ahead of its turn is kept as segments, not as audio. Where
    their `seconds` are given, the last ones are begun longest first, so that all lanes are busy until the end.
    """
    order = _begin_order(seconds or [0.0] * len(recordings), _LANES[codec.device.type])
    lanes = _Lanes(recordings, order, codec, log_mel, segment_frames)
    for index in range(len(recordings)):
        yield lanes.segments(index)


@dataclass(frozen=True)
class _Frames:
    """Some frames of a recording: `wav` `[≤ n · hop]`, `codes` `[K, n]`, `mel` `[n, V, M]`."""

    wav: np.ndarray
    codes: np.ndarray
    mel: np.ndarray


@dataclass
class _Lane:
    """A recording that is being encoded: what is left of it, the states, and frames that are not yet a segment."""

    index: int
    chunks: Iterator[tuple[np.ndarray, np.ndarray]]  # and what follows each, as far as a view looks ahead
    codec_state: StreamState
    mel_state: ViewState
    frames: list[_Frames] = field(default_factory=list)
    start_frame: int = 0


class _Lanes:
    """Recordings encoded in lock step, as many as suit the codec's device, and what of them was not asked for yet."""

    def __init__(
        self,
        recordings: Sequence[Iterable[np.ndarray]],
        order: Sequence[int],
        codec: Codec,
        log_mel: LogMel,
        segment_frames: int,
    ):
        self._codec, self._views, self._segment_frames = codec, MelViews(codec, log_mel), segment_frames
        self._waiting = deque((index, recordings[index]) for index in order)
        self._lanes: list[_Lane] = []
        self._most = _LANES[codec.device.type]
        # Of each recording: its segments in order, then None at its end, or the error that ended it.
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
        """Encode the next chunk of every lane; ended recordings make room for waiting ones first."""
        ready = [(lane, *read) for lane in self._lanes if (read := self._read(lane)) is not None]
        while len(ready) < self._most and self._waiting:
            index, blocks = self._waiting.popleft()
            chunks = with_lookahead(_rechunk(blocks, CHUNK_FRAMES * self._codec.hop), self._views.lookahead)
            lane = _Lane(index, chunks, self._codec.encoder_start, self._views.start)
            if (read := self._read(lane)) is not None:
                ready.append((lane, *read))
        self._lanes = []
        if not ready:
            return
        lanes, wavs, ahead = (list(column) for column in zip(*ready, strict=True))
        longest = -(-max(map(len, wavs)) // self._codec.hop) * self._codec.hop
        # A shorter chunk is its recording's last: the zeros after it change nothing before them.
        batch = torch.from_numpy(np.stack([np.pad(wav, (0, longest - len(wav))) for wav in wavs]))
        codes, states = self._codec.encode_chunk(
            join([lane.codec_state for lane in lanes]), batch.to(self._codec.device)
        )
        following = torch.from_numpy(np.stack(ahead))
        mels, mel_states = self._views.step([lane.mel_state for lane in lanes], codes, batch, following)
        codes, halves = codes.cpu(), mels.numpy().astype(np.float16)
        for row, (lane, wav) in enumerate(zip(lanes, wavs, strict=True)):
            lane.codec_state, lane.mel_state = states[row : row + 1], mel_states[row]
            frames = frame_count(len(wav))
            mel = halves[row, :frames]
            if not np.isfinite(mel).all():
                largest = f"{np.abs(wav).max():.3g}"
                error = AudioError("encode", f"samples as large as {largest} have no finite mel; scale it to ±1")
                self._outcomes[lane.index].append(error)
                continue
            lane.frames.append(_Frames(wav, codes[row, :, :frames].numpy(), mel))
            self._cut_segments(lane)
            self._lanes.append(lane)

    def _read(self, lane: _Lane) -> tuple[np.ndarray, np.ndarray] | None:
        """The lane's next chunk and what follows it; None where its recording has ended, well or badly."""
        try:
            read = next(lane.chunks, None)
        except AudioError as error:
            self._outcomes[lane.index].append(error)
            return None
        if read is None:
            if lane.frames:
                self._outcomes[lane.index].append(_segment(lane.start_frame * self._codec.hop, _join(lane.frames)))
            self._outcomes[lane.index].append(None)
        return read

    def _cut_segments(self, lane: _Lane) -> None:
        length = self._segment_frames
        while sum(len(frames.mel) for frames in lane.frames) >= length:
            whole = _join(lane.frames)
            segment = _segment(lane.start_frame * self._codec.hop, _cut(whole, 0, length, self._codec.hop))
            self._outcomes[lane.index].append(segment)
            lane.start_frame += length
            rest = _cut(whole, length, len(whole.mel), self._codec.hop)
            lane.frames = [rest] if len(rest.mel) else []


def _begin_order(seconds: Sequence[float], lanes: int) -> list[int]:
    """Which recording is begun when: in turn, but the last three of each lane the longest first."""
    order = list(range(len(seconds)))
    last = max(0, len(order) - 3 * lanes)
    return order[:last] + sorted(order[last:], key=lambda index: -seconds[index])


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
        mel_views=frames.mel[:, 1:].swapaxes(0, 1),
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
