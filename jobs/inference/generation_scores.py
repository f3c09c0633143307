"""Scores of a continuation: how natural it sounds, whose voice it has, and whether it drones."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np

from whisper_gpt.jobs.codec.judging import Share
from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.judge import dnsmos, speaker

_LEVEL_S = 0.02
_SILENCE_DB = -40.0  # below the loudest 20 ms: no speech


@dataclass(frozen=True)
class Continued:
    """What followed a prompt: its coarsest `codes` int64 `[n]`, its `wav` `[n · 320]`, and the prompt's `[N]`."""

    codes: np.ndarray
    wav: np.ndarray
    prompt_wav: np.ndarray


def continuation_scores(continued: Continued, judge: bool) -> dict[str, Share]:
    """Return the scores of one continuation. With `judge` also DNSMOS and the cosine similarity of its voice to the
    prompt's, if their packages are installed."""
    shares = {
        "code_entropy": Share(entropy(continued.codes)),
        "commonest_code": Share(float(np.unique(continued.codes, return_counts=True)[1].max() / len(continued.codes))),
        "longest_silence_s": Share(longest_silence_s(continued.wav)),
    }
    if judge and find_spec("speechmos") and find_spec("onnxruntime"):
        scores = dnsmos.dnsmos(continued.wav)
        shares["dnsmos_overall"] = Share(scores.overall)
        shares["dnsmos_signal"] = Share(scores.signal)
        shares["dnsmos_background"] = Share(scores.background)
        shares["dnsmos_p808"] = Share(scores.p808)
    if judge and find_spec("resemblyzer"):
        voices = speaker.voice(continued.prompt_wav), speaker.voice(continued.wav)
        shares["voice_similarity"] = Share(float(voices[0] @ voices[1]))
    return shares


def entropy(codes: np.ndarray) -> float:
    """Return the entropy in nats of the distribution of `codes` `[n]`: 0 if all are the same."""
    share = np.unique(codes, return_counts=True)[1] / len(codes)
    return float(-(share * np.log(share)).sum())


def longest_silence_s(wav: np.ndarray) -> float:
    """Return the length in seconds of the longest part of `wav` `[N]` that is 40 dB below its loudest 20 ms."""
    size = round(_LEVEL_S * SAMPLE_RATE)
    power = np.square(wav[: len(wav) // size * size].reshape(-1, size)).mean(axis=1)
    if not power.size or not power.max():
        return len(wav) / SAMPLE_RATE
    loud = np.flatnonzero(power > power.max() * 10 ** (_SILENCE_DB / 10))
    gaps = np.diff(loud, prepend=-1, append=len(power)) - 1
    return float(gaps.max() * _LEVEL_S)


def unigram_divergence(drawn: Sequence[np.ndarray], real: Sequence[np.ndarray], vocab: int) -> float:
    """Return the Jensen–Shannon divergence in nats (at most ln 2) of the codes' distributions in two sets of clips."""
    p, q = (np.bincount(np.concatenate(clips), minlength=vocab) / sum(map(len, clips)) for clips in (drawn, real))
    middle = (p + q) / 2
    return float(sum((x[x > 0] * np.log(x[x > 0] / middle[x > 0])).sum() for x in (p, q)) / 2)
