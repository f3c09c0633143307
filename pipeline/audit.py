"""The leak audit of a feature extractor: find the last input sample that a frame depends on by changing its future.

All samples from s on are replaced. If that does not change frame t, neither does any later s, so the last sample that
the frame depends on is found by doubling and bisection. There are three replacements: other noise shows the reach of a
window or a convolution; silence shows effects that loud audio would mask; and audio far louder than the clip shows
effects of a maximum over the clip (Whisper's clamp to 8 decades below the maximum) and of a window's small edge values.

A reported sample did change the frame. A sample that is not reported may still matter in a way that these three
replacements do not show.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.frames import HOP_SAMPLES, SAMPLE_RATE

Stage = Callable[[np.ndarray], np.ndarray]

# What the future is replaced by, the most sensitive first.
REPLACEMENTS = ("loud", "noise", "silence")

# Relative to full scale. The edge of a 2048-sample Hann window is 2e-6, and a clamp must exceed all of a quiet frame.
_LOUD = 1e4
_MIN_NOISE = 0.01  # relative to full scale, for a silent clip


@dataclass(frozen=True)
class Finding:
    """What one frame of a stage depends on, in samples from the start of the clip.

    `last_sample` is the last one that changes the frame, or None if none does. `changes` is the change of the frame,
    per replacement (see `REPLACEMENTS`), if all samples after `permitted_sample` are replaced: for integers the
    fraction of values that changed, for floats the largest difference.
    """

    stage: str
    frame: int
    permitted_sample: int  # −1: nothing is permitted
    last_sample: int | None
    changes: dict[str, float]

    @property
    def samples_ahead(self) -> int:
        """How many samples past the permitted one the frame depends on."""
        return 0 if self.last_sample is None else max(0, self.last_sample - self.permitted_sample)

    @property
    def ignores_input(self) -> bool:
        """Whether the frame depends on no sample although some are permitted."""
        return self.last_sample is None and self.permitted_sample >= 0


def audit_stage(
    name: str, stage: Stage, wav: np.ndarray, frames: Iterable[int], permitted: Callable[[int], int]
) -> list[Finding]:
    """Find what each of `frames` depends on, in the features `[T, …]` that `stage` computes from float32 `[N]`.

    `permitted` maps a frame to the last sample that it may depend on. If that is the clip's last sample, there is no
    future to change: choose earlier frames. Raises `PipelineError` if the stage is not deterministic, or if its number
    of frames varies for the same number of samples, and `ValueError` if a frame does not exist.
    """
    before = stage(wav.copy())
    trial = _Trial(name, stage, wav, _replacements(wav), before)
    if _change(before, trial.features(wav.copy())):
        raise PipelineError(f"{name}: not deterministic for the same samples, so a change would show nothing")
    findings = []
    for frame in frames:
        if not 0 <= frame < len(before):
            raise ValueError(f"{name}: no frame {frame}, there are {len(before)}")
        findings.append(_audit_frame(trial, frame, permitted(frame)))
    return findings


def frames_to_audit(frames: int) -> list[int]:
    """Choose from `frames` frames the first two, the middle one, and one with 8 frames of future (if there are)."""
    return sorted({0, min(1, frames - 1), frames // 2, max(0, frames - 9)})


def synthetic_clip(frames: int, seed: int = 0) -> np.ndarray:
    """Return a synthetic clip float32 `[frames · 320]`: tones and noise, peak about −6 dBFS, level varying by 40 dB."""
    time_s = np.arange(frames * HOP_SAMPLES) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * hz * time_s) / 4 for hz in (196, 523, 1976))
    noise = 0.1 * np.random.default_rng(seed).standard_normal(len(time_s))
    level = 10 ** (np.cos(2 * np.pi * 1.3 * time_s) - 1)
    return (0.5 * level * (tones + noise)).astype(np.float32)


# Level relative to the replaced future, in dB: clearly audible, barely audible, any changed bit.
LOOKAHEAD_DB = (-40.0, -80.0, -np.inf)
_CHANGED_FRAME = 36  # the first frame that the recording changes in: at 0.48 s, a whole sample at all usual rates


@dataclass(frozen=True)
class ResamplerLookahead:
    """How far ahead a linear-phase resampler looks, measured from recordings at `source_rate`.

    `samples` at 24 kHz, by level in dB (see `LOOKAHEAD_DB`): how long before a change in the recording the resampled
    signal changes by more than that level, relative to the peak of the change.
    """

    source_rate: int
    samples: dict[float, int]


@dataclass(frozen=True)
class FramesAhead:
    """How far ahead a stage looks through the resampler.

    A change in the recording changes at least one bit in `frames` frames that end before it, and the last of them by
    `change`, in the unit of `Finding.changes`.
    """

    frames: int
    change: float


def resampler_lookahead(resample: Stage, source_rate: int) -> ResamplerLookahead:
    """Measure the lookahead of `resample`, which maps samples `[N]` at `source_rate` to samples `[M]` at 24 kHz."""
    first = _CHANGED_FRAME * HOP_SAMPLES  # the first resampled sample in the replaced half
    samples = dict.fromkeys(LOOKAHEAD_DB, 0)
    for recording, changed in _changed_recordings(source_rate):
        changes = np.abs(resample(changed) - resample(recording))
        for level in LOOKAHEAD_DB:
            above = np.flatnonzero(changes > changes.max() * 10 ** (level / 20))
            samples[level] = max(samples[level], first - int(above[0]))
    return ResamplerLookahead(source_rate, samples)


def frames_ahead(
    stage: Stage, resample: Stage, source_rate: int, most_frames: int, frames_back: int = 0
) -> FramesAhead:
    """Measure how far ahead `stage` looks in a recording at `source_rate`; its input is `resample` of the recording.

    It gets at most `most_frames` frames, around the change. With `frames_back` 1, its frame t may depend only on frames
    before t.
    """
    length = min(2 * _CHANGED_FRAME, most_frames)
    start = _CHANGED_FRAME - length // 2
    window = slice(start * HOP_SAMPLES, (start + length) * HOP_SAMPLES)
    end = length // 2 + frames_back  # end of the frames that must not depend on the replaced half
    most = FramesAhead(0, 0.0)
    for recordings in _changed_recordings(source_rate):
        before, after = (stage(resample(recording)[window]) for recording in recordings)
        changes = [_change(before[frame], after[frame]) for frame in range(end)]
        frames = next((end - frame for frame, change in enumerate(changes) if change), 0)
        most = FramesAhead(max(most.frames, frames), max(most.change, changes[-1]))
    return most


def _changed_recordings(source_rate: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return recordings `[N]` at `source_rate`, each with a copy whose second half (from a frame's end) is replaced.

    Silence becomes loud noise (small changes show in silence), quiet noise becomes loud noise, quiet noise becomes
    silence.
    """
    random = np.random.default_rng(2)
    samples = round(2 * _CHANGED_FRAME * HOP_SAMPLES * source_rate / SAMPLE_RATE)
    begin = -(-_CHANGED_FRAME * HOP_SAMPLES * source_rate // SAMPLE_RATE)
    quiet, loud = (level * random.uniform(-1, 1, samples).astype(np.float32) for level in (0.05, 1.0))
    silence = np.zeros_like(quiet)
    cases = (silence, loud), (quiet, loud), (quiet, silence)
    return [(before, np.concatenate([before[:begin], after[begin:]])) for before, after in cases]


def _replacements(wav: np.ndarray) -> dict[str, np.ndarray]:
    """Return the replacements for samples of `wav`, each `[N]`."""
    noise = np.random.default_rng(1).standard_normal(len(wav)).astype(np.float32)
    level = max(float(np.sqrt(np.mean(np.square(wav, dtype=np.float64)))), _MIN_NOISE)
    signals = noise * np.float32(_LOUD), noise[::-1] * np.float32(level), np.zeros_like(noise)
    return dict(zip(REPLACEMENTS, signals, strict=True))


@dataclass(frozen=True)
class _Trial:
    """A stage, and its features `before` `[T, …]` of the unchanged `wav`."""

    name: str
    stage: Stage
    wav: np.ndarray
    replacements: dict[str, np.ndarray]
    before: np.ndarray

    def features(self, wav: np.ndarray) -> np.ndarray:
        """Return the stage's features of other samples `[N]`. Raises `PipelineError` if their shape differs."""
        features = self.stage(wav)
        if features.shape != self.before.shape:
            shapes = f"{self.before.shape} and {features.shape}"
            raise PipelineError(f"{self.name}: returns shapes {shapes} for two clips of {len(wav)} samples")
        return features

    def change(self, frame: int, which: str, begin: int) -> float:
        """Return the change of the frame if the samples from `begin` on are replaced."""
        if begin >= len(self.wav):
            return 0.0
        after = self.features(np.concatenate([self.wav[:begin], self.replacements[which][begin:]]))
        return _change(self.before[frame : frame + 1], after[frame : frame + 1])


def _audit_frame(trial: _Trial, frame: int, permitted: int) -> Finding:
    change = cache(partial(trial.change, frame))
    future = {which: change(which, permitted + 1) for which in trial.replacements}
    last = None
    for which in [which for which in future if future[which]] or future:
        changed = partial(_above_zero, change, which)
        if last is None or changed(last + 1):  # otherwise it finds no later sample than the previous ones
            last = _last_sample(changed, permitted if last is None else last, len(trial.wav))
    return Finding(trial.name, frame, permitted, last, future)


def _above_zero(change: Callable[[str, int], float], which: str, begin: int) -> bool:
    return change(which, begin) > 0


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """Return 0 only if both are equal to the last bit; otherwise the fraction of integers that changed, or the largest
    difference of floats, infinite if it is NaN."""
    if np.issubdtype(before.dtype, np.integer):
        return float(np.mean(before != after))
    differs = (before != after) & ~(np.isnan(before) & np.isnan(after))
    if not differs.any():
        return 0.0
    differences = np.abs(before[differs].astype(np.float64) - after[differs])
    return float(np.nan_to_num(differences, nan=np.inf).max())


def _last_sample(changed: Callable[[int], bool], near: int, samples: int) -> int | None:
    """Return the last sample s for which `changed(s)`, searching outwards from `near`; None if there is none."""
    step = 1
    if changed(near + 1):
        low = near + 1  # changed(low) is True, changed(high) is False
        while low + step < samples and changed(low + step):
            low, step = low + step, 2 * step
        high = min(low + step, samples)
    else:
        high = near + 1
        while (low := max(0, high - step)) < high and not changed(low):
            high, step = low, 2 * step
        if high == 0:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        if changed(middle):
            low = middle
        else:
            high = middle
    return low
