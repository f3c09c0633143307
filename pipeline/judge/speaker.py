"""Speaker embeddings by the encoder of Resemblyzer (Wan et al. 2018, arXiv 1710.10467).

Only the weights of that package are used, and only tensors are unpickled; its code needs webrtcvad. So silence is not
removed from a signal, which matters little for read speech.
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
# An utterance's embedding is the mean over its parts: 1.6 s long, 1.3 per second.
_PART_FRAMES, _PART_STEP = 160, 77
_MIN_COVERED = 0.75  # the rest of the last part may be padding
_MIN_RMS = 10 ** (-30 / 20)


class SpeakerEncoder(nn.Module):
    """Maps mel frames to a speaker embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(_BANDS, _WIDTH, _LAYERS, batch_first=True)
        self.linear = nn.Linear(_WIDTH, _WIDTH)

    def forward(self, mels: torch.Tensor) -> torch.Tensor:
        """Return embeddings `[B, 256]` of unit length for mel power `[B, T, 40]`."""
        hidden = self.lstm(mels)[1][0]
        return nn.functional.normalize(self.linear(hidden[-1]).relu(), dim=1)


@cache
def speaker_encoder() -> SpeakerEncoder:
    """Load the pretrained encoder. Raises `PipelineError` if the package is missing or has different weights."""
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
    """Return the speaker embedding of a 24 kHz signal `[N]`: float32 `[256]` of unit length; NaN for digital silence.

    The similarity of two embeddings is their cosine, 0 to 1, which is their dot product.
    """
    samples = at_judge_rate(wav)
    rms = np.sqrt(np.mean(np.square(samples), dtype=np.float64))
    if rms == 0:
        return np.full(_WIDTH, np.nan, np.float32)
    samples = samples * np.float32(max(1.0, _MIN_RMS / rms))
    starts = _part_starts(len(samples))
    end = (starts[-1] + _PART_FRAMES) * _HOP
    samples = np.pad(samples, (0, max(0, end - len(samples))))
    mel = librosa.feature.melspectrogram(y=samples, sr=JUDGE_RATE, n_fft=_WINDOW, hop_length=_HOP, n_mels=_BANDS).T
    parts = np.stack([mel[start : start + _PART_FRAMES] for start in starts]).astype(np.float32)
    mean = speaker_encoder()(torch.from_numpy(parts)).mean(0)
    return nn.functional.normalize(mean, dim=0).numpy()


def halves_similarity(wav: np.ndarray) -> float:
    """Return the cosine of the embeddings of a 24 kHz signal's two halves, N at least 2: a voice compared to itself."""
    middle = len(wav) // 2
    return float(voice(wav[:middle]) @ voice(wav[middle:]))


def _part_starts(samples: int) -> list[int]:
    """Return the first frames of the parts of a signal of `samples` samples at 16 kHz."""
    frames = -(-(samples + 1) // _HOP)
    starts = list(range(0, max(1, frames - _PART_FRAMES + _PART_STEP + 1), _PART_STEP))
    covered = samples / _HOP - starts[-1]
    return starts[:-1] if covered < _MIN_COVERED * _PART_FRAMES and len(starts) > 1 else starts
