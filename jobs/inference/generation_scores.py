"""Scores of a continuation: how natural it sounds, how well it fits its prompt, and whether it drones."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch

from whisper_gpt.jobs.codec.judging import Share, naturalness
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.judge import speaker
from whisper_gpt.pipeline.judge.codes import commonest_share, entropy, repeated_share
from whisper_gpt.pipeline.judge.distributions import frechet_distance, jensen_shannon
from whisper_gpt.pipeline.judge.music import onsets_per_s, pitch_classes

# speech: DNSMOS and voices (packages of the extra `judge`); music: onsets and pitch classes; none: neither.
Kind = Literal["speech", "music", "none"]

_LEVEL_S = 0.02
_SILENCE_DB = -40.0  # below the loudest 20 ms


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

    @cached_property
    def pitch_classes(self) -> np.ndarray:
        return pitch_classes(self.wav)

    @cached_property
    def prompt_pitch_classes(self) -> np.ndarray:
        return pitch_classes(self.prompt_wav)


def continuation_scores(continued: Continued, kind: Kind) -> dict[str, Share]:
    """Return the scores of one continuation, with those for its `kind` of audio whose packages are installed."""
    sounding = _sounding(continued.wav)
    shares = {
        "code_entropy": Share(entropy(continued.codes)),
        "commonest_code": Share(commonest_share(continued.codes)),
        "repeated_codes": Share(repeated_share(continued.codes)),
        "sounding": Share(float(sounding.mean())),
        "longest_silence_s": Share(_longest_gap(sounding) * _LEVEL_S),
    }
    if kind == "speech":
        shares |= naturalness(continued.wav)
    if kind == "music":
        shares |= {"onsets_per_s": Share(onsets_per_s(continued.wav))}
    return shares | likeness(continued, continued, kind)


def likeness(continued: Continued, prompted: Continued, kind: Kind) -> dict[str, Share]:
    """Compare a continuation with the prompt of `prompted`: by the cosine similarity of the voices of speech (nothing
    if the package is missing), by the divergence of the pitch classes of music."""
    if kind == "speech" and find_spec("resemblyzer"):
        return {"voice_similarity": Share(float(prompted.prompt_voice @ continued.voice))}
    if kind == "music":
        return {"pitch_class_divergence": Share(jensen_shannon(prompted.prompt_pitch_classes, continued.pitch_classes))}
    return {}


def mel_distance(clips: Sequence[Continued], prompts: Sequence[np.ndarray]) -> float:
    """Return the Fréchet distance of the clips' log-mel frames to those of `prompts`, audio `[N]` each."""
    log_mel = LogMel(MelConfig())
    sets = ([clip.wav for clip in clips], prompts)
    return frechet_distance(
        *(np.concatenate([log_mel(torch.from_numpy(wav)).numpy() for wav in wavs]) for wavs in sets)
    )


def _sounding(wav: np.ndarray) -> np.ndarray:
    """Whether each 20 ms of `wav` `[N]` is less than 40 dB below the loudest: bool `[n]`."""
    size = round(_LEVEL_S * SAMPLE_RATE)
    power = np.square(wav[: len(wav) // size * size].reshape(-1, size)).mean(axis=1)
    return power > power.max(initial=0) * 10 ** (_SILENCE_DB / 10)


def _longest_gap(flags: np.ndarray) -> int:
    """Return the length of the longest run of False in `flags` `[n]`."""
    places = np.flatnonzero(flags)
    return int((np.diff(places, prepend=-1, append=len(flags)) - 1).max())
