"""Statistics of music: how many notes begin per second, and which pitch classes sound."""

import librosa
import numpy as np

from whisper_gpt.pipeline.frames import SAMPLE_RATE


def onsets_per_s(wav: np.ndarray) -> float:
    """Return how many onsets librosa detects per second of a 24 kHz signal `[N]`."""
    if not np.any(wav):
        return 0.0
    return len(librosa.onset.onset_detect(y=wav, sr=SAMPLE_RATE, units="samples")) / (len(wav) / SAMPLE_RATE)


def pitch_classes(wav: np.ndarray) -> np.ndarray:
    """Return the shares `[12]` of the pitch classes C to B in a 24 kHz signal `[N]`; uniform for digital silence."""
    if not np.any(wav):
        return np.full(12, 1 / 12)
    # A fixed tuning: the estimate of one fails on a clip without clear pitches.
    chroma = librosa.feature.chroma_stft(y=wav, sr=SAMPLE_RATE, n_fft=4096, tuning=0.0, norm=None).sum(axis=1)
    return chroma / chroma.sum()
