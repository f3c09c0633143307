"""Scores of a continuation: how natural it sounds, whose voice it has, and whether it drones."""

from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec

import numpy as np

from whisper_gpt.jobs.codec.judging import Share, naturalness
from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.judge import speaker
from whisper_gpt.pipeline.judge.codes import commonest_share, entropy

_LEVEL_S = 0.02
_SILENCE_DB = -40.0  # below the loudest 20 ms: no speech


@dataclass(frozen=True)
class Continued:
    """What followed a prompt: its coarsest `codes` int64 `[n]`, its `wav` `[n · 320]`, and the prompt's `[N]`."""

    codes: np.ndarray
    wav: np.ndarray
    prompt_wav: np.ndarray

    @cached_property
    def voice(self) -> np.ndarray:
        return speaker.voice(self.wav)

    @cached_property
    def prompt_voice(self) -> np.ndarray:
        return speaker.voice(self.prompt_wav)


def continuation_scores(continued: Continued, judge: bool) -> dict[str, Share]:
    """Return the scores of one continuation. With `judge` also DNSMOS and the similarity of its voice to the prompt's,
    if their packages are installed."""
    shares = {
        "code_entropy": Share(entropy(continued.codes)),
        "commonest_code": Share(commonest_share(continued.codes)),
        "longest_silence_s": Share(longest_silence_s(continued.wav)),
    }
    return shares | naturalness(continued.wav) | voice_similarity(continued, continued) if judge else shares


def voice_similarity(continued: Continued, prompted: Continued) -> dict[str, Share]:
    """Return the cosine similarity of a continuation's voice to that of the prompt of `prompted`, or nothing if the
    package is missing."""
    if not find_spec("resemblyzer"):
        return {}
    return {"voice_similarity": Share(float(prompted.prompt_voice @ continued.voice))}


def longest_silence_s(wav: np.ndarray) -> float:
    """Return the length in seconds of the longest part of `wav` `[N]` that is 40 dB below its loudest 20 ms."""
    size = round(_LEVEL_S * SAMPLE_RATE)
    power = np.square(wav[: len(wav) // size * size].reshape(-1, size)).mean(axis=1)
    if not power.size or not power.max():
        return len(wav) / SAMPLE_RATE
    loud = np.flatnonzero(power > power.max() * 10 ** (_SILENCE_DB / 10))
    gaps = np.diff(loud, prepend=-1, append=len(power)) - 1
    return float(gaps.max() * _LEVEL_S)
