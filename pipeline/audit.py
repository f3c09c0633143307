"""The leak audit of a feature extractor: the last input sample that a frame depends on, found by changing its future.

Every sample from s on is replaced. If that changes nothing in frame t, then neither does any later s, so the last
sample that the frame depends on is found by doubling and bisection. Other noise shows what a window or a convolution
reaches; silence what only loudness would hide; and sound far louder than the clip what a maximum over it lets through
(Whisper's clamp to 8 decades below the loudest) and what lies under the foot of a window.

A sample that is reported was seen to change the frame. One that was not may still matter in a way that these three
replacements do not show.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.frames import HOP_SAMPLES, SAMPLE_RATE

Stage = Callable[[np.ndarray], np.ndarray]

# What the future is replaced by: the one that shows most first.
REPLACEMENTS = ("loud", "noise", "silence")

# Of full scale. The foot of a Hann window of 2048 is 2e-6, and a clamp is to rise above all that a quiet frame holds.
_LOUD = 1e4
_LEAST_NOISE = 0.01  # of full scale, in the place of a silent clip


@dataclass(frozen=True)
class Finding:
    """What one frame of a stage depends on, in samples from the clip's begin.

    `last_sample` is the last one that was seen to change the frame, None where none does. `changes` says of each
    replacement (see `REPLACEMENTS`) how it changes the frame where all after `permitted_sample` is replaced: of
    integers the share that changed, of floats the largest difference.
    """

    stage: str
    frame: int
    permitted_sample: int  # −1: nothing is permitted
    last_sample: int | None
    changes: dict[str, float]

    @property
    def samples_ahead(self) -> int:
        """Samples past the permitted one that the frame sees; 0 where it sees none."""
        return 0 if self.last_sample is None else max(0, self.last_sample - self.permitted_sample)

    @property
    def deaf(self) -> bool:
        """Whether the frame depends on nothing, though something is permitted."""
        return self.last_sample is None and self.permitted_sample >= 0


def audit_stage(
    name: str, stage: Stage, wav: np.ndarray, frames: Iterable[int], permitted: Callable[[int], int]
) -> list[Finding]:
    """What each of `frames` depends on, of the features `[T, …]` that `stage` makes of samples float32 `[N]`.

    `permitted` says of a frame the last sample that it may depend on. A frame whose permitted sample is the clip's
    last has no future to be changed: take frames before it. Raises `PipelineError` for a stage that gives other
    values for the same samples, or another number of frames for as many of them, and `ValueError` for a frame that is
    not there.
    """
    before = stage(wav.copy())
    trial = _Trial(name, stage, wav, _replacements(wav), before)
    if _change(before, trial.features(wav.copy())):
        raise PipelineError(f"{name}: gives other values for the same samples, so nothing can be told from a change")
    findings = []
    for frame in frames:
        if not 0 <= frame < len(before):
            raise ValueError(f"{name}: frame {frame} of {len(before)}")
        findings.append(_audit_frame(trial, frame, permitted(frame)))
    return findings


def frames_to_audit(frames: int) -> list[int]:
    """The first two of so many frames, the middle one, and one of the last, with 8 frames of future (if there are)."""
    return sorted({0, min(1, frames - 1), frames // 2, max(0, frames - 9)})


def made_clip(frames: int, seed: int = 0) -> np.ndarray:
    """Tones and noise float32 `[frames · 320]`, peak about −6 dBFS, of a level that rises and falls by 40 dB."""
    time_s = np.arange(frames * HOP_SAMPLES) / SAMPLE_RATE
    tones = sum(np.sin(2 * np.pi * hz * time_s) / 4 for hz in (196, 523, 1976))
    noise = 0.1 * np.random.default_rng(seed).standard_normal(len(time_s))
    level = 10 ** (np.cos(2 * np.pi * 1.3 * time_s) - 1)
    return (0.5 * level * (tones + noise)).astype(np.float32)


# Below the sound that was put in the future's place, in dB: plainly audible, the edge of audibility, any bit at all.
LOOKAHEAD_DB = (-40.0, -80.0, -np.inf)
_CHANGED_FRAME = 36  # the first of those that the recording changes in: at 0.48 s, a whole sample at all usual rates


@dataclass(frozen=True)
class ResamplerLookahead:
    """How far ahead a linear-phase resampler looks, measured from recordings at `source_rate`.

    `samples` at 24 kHz, by level in dB (see `LOOKAHEAD_DB`): how long before a change in the recording its resampled
    signal changes by more than that, relative to the peak of the change.
    """

    source_rate: int
    samples: dict[float, int]


@dataclass(frozen=True)
class FramesAhead:
    """How far ahead a stage looks through the resampler: `frames` frames that end before a change in the recording
    change with it, to the last bit, and the last of them by `change`, in the unit of a `Finding`'s."""

    frames: int
    change: float


def resampler_lookahead(resample: Stage, source_rate: int) -> ResamplerLookahead:
    """Measure the lookahead of `resample`, which maps samples `[N]` at `source_rate` to samples `[M]` at 24 kHz."""
    first = _CHANGED_FRAME * HOP_SAMPLES  # the first resampled sample that lies in the replaced half
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
    """Measure how far ahead `stage` looks, from a recording at `source_rate`, `resample` of which it is given.

    It is given `most_frames` frames at most, around the change; with `frames_back` 1 frame t of it may depend on the
    frames before t only.
    """
    length = min(2 * _CHANGED_FRAME, most_frames)
    start = _CHANGED_FRAME - length // 2
    window = slice(start * HOP_SAMPLES, (start + length) * HOP_SAMPLES)
    end = length // 2 + frames_back  # of the frames that may not see the replaced half
    found = FramesAhead(0, 0.0)
    for recordings in _changed_recordings(source_rate):
        before, after = (stage(resample(recording)[window]) for recording in recordings)
        changes = [_change(before[frame], after[frame]) for frame in range(end)]
        frames = next((end - frame for frame, change in enumerate(changes) if change), 0)
        found = FramesAhead(max(found.frames, frames), max(found.change, changes[-1]))
    return found


def _changed_recordings(source_rate: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Recordings `[N]` at `source_rate`, and each with another second half, which begins where a frame ends: loud noise
    after silence, in which a little shows, loud noise after quiet noise, and silence after that."""
    random = np.random.default_rng(2)
    samples = round(2 * _CHANGED_FRAME * HOP_SAMPLES * source_rate / SAMPLE_RATE)
    begin = -(-_CHANGED_FRAME * HOP_SAMPLES * source_rate // SAMPLE_RATE)
    quiet, loud = (level * random.uniform(-1, 1, samples).astype(np.float32) for level in (0.05, 1.0))
    silence = np.zeros_like(quiet)
    cases = (silence, loud), (quiet, loud), (quiet, silence)
    return [(before, np.concatenate([before[:begin], after[begin:]])) for before, after in cases]


def _replacements(wav: np.ndarray) -> dict[str, np.ndarray]:
    """What stands in the place of samples of `wav`, each `[N]`."""
    noise = np.random.default_rng(1).standard_normal(len(wav)).astype(np.float32)
    level = max(float(np.sqrt(np.mean(np.square(wav, dtype=np.float64)))), _LEAST_NOISE)
    signals = noise * np.float32(_LOUD), noise[::-1] * np.float32(level), np.zeros_like(noise)
    return dict(zip(REPLACEMENTS, signals, strict=True))


@dataclass(frozen=True)
class _Trial:
    """A stage, and what it makes of `wav` as it is: `before` `[T, …]`."""

    name: str
    stage: Stage
    wav: np.ndarray
    replacements: dict[str, np.ndarray]
    before: np.ndarray

    def features(self, wav: np.ndarray) -> np.ndarray:
        """What the stage makes of other samples `[N]`. Raises `PipelineError` where that has another shape."""
        features = self.stage(wav)
        if features.shape != self.before.shape:
            shapes = f"{self.before.shape} and {features.shape}"
            raise PipelineError(f"{self.name}: gives {shapes} for two clips of {len(wav)} samples")
        return features

    def change(self, frame: int, which: str, begin: int) -> float:
        """How the frame changes where the samples from `begin` on are replaced."""
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
        if last is None or changed(last + 1):  # else it shows no more than those before it
            last = _last_sample(changed, permitted if last is None else last, len(trial.wav))
    return Finding(trial.name, frame, permitted, last, future)


def _above_zero(change: Callable[[str, int], float], which: str, begin: int) -> bool:
    return change(which, begin) > 0


def _change(before: np.ndarray, after: np.ndarray) -> float:
    """0 only where both are equal to the last bit; else the share of integers that changed, or the largest
    difference, infinite where it is no number."""
    if np.issubdtype(before.dtype, np.integer):
        return float(np.mean(before != after))
    differs = (before != after) & ~(np.isnan(before) & np.isnan(after))
    if not differs.any():
        return 0.0
    differences = np.abs(before[differs].astype(np.float64) - after[differs])
    return float(np.nan_to_num(differences, nan=np.inf).max())


def _last_sample(changed: Callable[[int], bool], near: int, samples: int) -> int | None:
    """The last sample s for which `changed(s)`, sought from `near` outwards; None for none."""
    step = 1
    if changed(near + 1):
        seen = near + 1
        while seen + step < samples and changed(seen + step):
            seen, step = seen + step, 2 * step
        unseen = min(seen + step, samples)
    else:
        unseen = near + 1
        while (seen := max(0, unseen - step)) < unseen and not changed(seen):
            unseen, step = seen, 2 * step
        if unseen == 0:
            return None
    while unseen - seen > 1:
        middle = (seen + unseen) // 2
        if changed(middle):
            seen = middle
        else:
            unseen = middle
    return seen
