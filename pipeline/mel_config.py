"""How mel frames are laid out in time and frequency: what a dataset says of them, and what other parts need to know."""

import math
from dataclasses import dataclass

from pipeline.audio import SAMPLE_RATE
from pipeline.errors import PipelineError

HOP_SAMPLES = 320


@dataclass(frozen=True)
class MelConfig:
    """How the mel frames are made; part of a dataset's fingerprint.

    `window_samples` reaches back from the end of the frame. Values are log10 of power, never below
    log10(`floor`): a constant, because a floor taken from the clip (as Whisper's) would look into its future.
    """

    bands: int = 64
    window_samples: int = 1024
    hop_samples: int = HOP_SAMPLES
    sample_rate: int = SAMPLE_RATE
    floor: float = 1e-10

    def __post_init__(self) -> None:
        if self.window_samples < self.hop_samples:
            raise PipelineError(f"--mel-window {self.window_samples} is shorter than the hop of {self.hop_samples}")
        if not 1 <= self.bands <= self.window_samples // 4:
            raise PipelineError(f"--mels {self.bands} does not fit a window of {self.window_samples} samples")

    @property
    def context_samples(self) -> int:
        """Samples before a frame's own hop that its window covers."""
        return self.window_samples - self.hop_samples


def frame_count(samples: int) -> int:
    """Frames (and codes) that cover `samples` samples at 24 kHz: ceil(N / 320)."""
    return math.ceil(samples / HOP_SAMPLES)
