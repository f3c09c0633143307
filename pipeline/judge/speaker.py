"""Whose voice it is: the speaker encoder of Resemblyzer (Wan et al. 2018, arXiv 1710.10467).

Only the weights are taken from that package, and nothing in them is unpickled but tensors; its code would need
webrtcvad. So silences are not cut out of a signal, which for read speech changes little.
"""

import pickle
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import librosa
import numpy as np
import torch
from torch import nn

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.judge.packages import INSTALL, JUDGE_RATE, at_judge_rate

_WINDOW, _HOP, _BANDS = 400, 160, 40  # 25 ms and 10 ms
_WIDTH, _LAYERS = 256, 3
# An utterance's embedding is the mean of those of its parts: 1.6 s long, 1.3 of them begin each second.
_PART_FRAMES, _PART_STEP = 160, 77
_LEAST_COVERED = 0.75  # the last part may go on into padding for the rest of it
_LEAST_RMS = 10 ** (-30 / 20)


class SpeakerEncoder(nn.Module):
    """Mel frames → an embedding of the voice."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_BANDS, _WIDTH, _LAYERS, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Mel power `[B, T, 40]` → embeddings of length 1, `[B, 256]`."""
        hidden = self.lstm(mels)[1][0]
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)


@cache
def speaker_encoder() -> SpeakerEncoder:
    """The pretrained encoder. Raises `PipelineError` where the package is not installed or holds other weights."""
    spec = find_spec("resemblyzer")
    if spec is None or spec.origin is None:
        raise PipelineError(f"the package Resemblyzer is not installed: {INSTALL}")
    path = Path(spec.origin).with_name("pretrained.pt")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["model_state"]
        encoder = SpeakerEncoder()
        encoder.load_state_dict({name: weights[name] for name in encoder.state_dict()})
    except (OSError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise PipelineError(f"{path}: not the weights of Resemblyzer 0.1.4; install it again") from error
    return encoder.eval()


@torch.no_grad()
def voice(wav: np.ndarray) -> np.ndarray:
    """Embedding of the voice in a 24 kHz signal `[N]`: float32 `[256]` of length 1; NaN of digital silence.

    The similarity of two is their cosine, 0 to 1: their dot product.
    """
    samples = at_judge_rate(wav)
    rms = np.sqrt(np.mean(np.square(samples), dtype=np.float64))
    if rms == 0:
        return np.full(_WIDTH, np.nan, np.float32)
    samples = samples * np.float32(max(1.0, _LEAST_RMS / rms))
    starts = _part_starts(len(samples))
    end = (starts[-1] + _PART_FRAMES) * _HOP
    samples = np.pad(samples, (0, max(0, end - len(samples))))
    mel = librosa.feature.melspectrogram(y=samples, sr=JUDGE_RATE, n_fft=_WINDOW, hop_length=_HOP, n_mels=_BANDS).T
    parts = np.stack([mel[start : start + _PART_FRAMES] for start in starts]).astype(np.float32)
    mean = speaker_encoder()(torch.from_numpy(parts)).mean(0)
    return nn.functional.normalize(mean, dim=0).numpy()


def halves_similarity(wav: np.ndarray) -> float:
    """Cosine of the two halves' embeddings of a 24 kHz signal `[N]`, N at least 2: what one voice is to itself."""
    middle = len(wav) // 2
    return float(voice(wav[:middle]) @ voice(wav[middle:]))


def _part_starts(samples: int) -> list[int]:
    """First frames of the parts of a signal of `samples` samples at 16 kHz."""
    frames = -(-(samples + 1) // _HOP)
    starts = list(range(0, max(1, frames - _PART_FRAMES + _PART_STEP + 1), _PART_STEP))
    covered = samples / _HOP - starts[-1]
    return starts[:-1] if covered < _LEAST_COVERED * _PART_FRAMES and len(starts) > 1 else starts
