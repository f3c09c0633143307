"""Speed of the log-mel, against librosa's melspectrogram over the same windows."""

from dataclasses import dataclass

import librosa
import numpy as np
import torch

from whisper_gpt.jobs.benchmarks.timing import Timing, time_in_turn
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig


@dataclass(frozen=True)
class MelSpeed:
    """Speeds in multiples of real time, and the largest difference of a log10 value."""

    librosa_xrt: Timing
    ours_xrt: Timing
    ratio: float
    largest_difference: float
    threads: int
    seconds: float


def mel_speed(clips: np.ndarray, rounds: int) -> MelSpeed:
    """Measure on `clips` `[B, N]` at 24 kHz, N a whole number of frames, with torch's current number of threads."""
    config = MelConfig()
    log_mel, signals = LogMel(config), torch.from_numpy(clips)
    timings = time_in_turn(
        {
            "librosa": lambda: [librosa_log_mel(clip, config) for clip in clips],
            "ours": lambda: [log_mel(signal) for signal in signals],
        },
        rounds,
    )
    differences = [np.abs(librosa_log_mel(clip, config) - log_mel(torch.from_numpy(clip)).numpy()) for clip in clips]
    seconds = clips.size / config.sample_rate
    return MelSpeed(
        **{f"{name}_xrt": timing.speeds(seconds) for name, timing in timings.items()},
        ratio=timings["librosa"].median / timings["ours"].median,
        largest_difference=float(max(d.max() for d in differences)),
        threads=torch.get_num_threads(),
        seconds=seconds,
    )


def librosa_log_mel(wav: np.ndarray, config: MelConfig) -> np.ndarray:
    """Compute the same causal log-mel `[T, M]` of `wav` `[N]` with librosa."""
    mel = librosa.feature.melspectrogram(
        y=np.pad(wav, (config.context_samples, 0)),
        sr=config.sample_rate,
        n_fft=config.window_samples,
        hop_length=config.hop_samples,
        center=False,
        n_mels=config.bands,
    )
    return np.log10(np.maximum(mel, config.floor)).T
