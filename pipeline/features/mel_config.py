"""Configuration of the mel frames and the names of the mel variants."""

import math
import re
from dataclasses import dataclass

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.frames import HOP_SAMPLES, SAMPLE_RATE

# Mel variants. `audio`: the mel of the audio. `codes-K`: the mel of the audio decoded from the coarsest K codebooks.
# `centred-W`: the mel of the audio with a window of W samples centred on each frame's start, the default of torch.stft
# and librosa.
AUDIO = "audio"
_DECODED = re.compile(r"codes-([1-9]\d*)")
_CENTRED = re.compile(r"centred-([1-9]\d*)")


@dataclass(frozen=True)
class MelConfig:
    """How the mel frames are computed; part of a dataset's fingerprint.

    The window of `window_samples` ends with the frame. Values are log10 of power, clamped at log10(`floor`): a
    constant, because a floor computed from the clip (as in Whisper) would depend on its future. `variants` are the mel
    variants that each sample contains; the first is its `mel`.
    """

    bands: int = 64
    window_samples: int = 1024
    hop_samples: int = HOP_SAMPLES
    sample_rate: int = SAMPLE_RATE
    floor: float = 1e-10
    variants: tuple[str, ...] = (AUDIO,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "variants", tuple(self.variants))  # JSON gives a list
        if self.window_samples < self.hop_samples:
            raise PipelineError(f"--mel-window {self.window_samples} is shorter than the hop of {self.hop_samples}")
        if not 1 <= self.bands <= self.window_samples // 4:
            raise PipelineError(f"--mels {self.bands} does not fit a window of {self.window_samples} samples")
        if not 0 < self.floor < math.inf:
            raise PipelineError(f"--mel-floor {self.floor}: must be above zero")
        for variant in self.variants:
            if variant != AUDIO and not decoded_codebooks(variant) and not lookahead_samples(variant):
                variants = "audio, codes-K or centred-W (W longer than two hops)"
                raise PipelineError(f"{variant!r} is not a mel variant; choose {variants}")

    @property
    def context_samples(self) -> int:
        """Samples before a frame's hop that its window covers."""
        return self.window_samples - self.hop_samples


def decoded_codebooks(variant: str) -> int:
    """Return how many codebooks a mel variant is decoded from; 0 if it is not `codes-K`."""
    match = _DECODED.fullmatch(variant)
    return int(match[1]) if match else 0


def centred_window(variant: str) -> int:
    """Return the window of a centred mel variant in samples; 0 for a causal one."""
    match = _CENTRED.fullmatch(variant)
    return int(match[1]) if match else 0


def lookahead_samples(variant: str) -> int:
    """Return how many samples past the frame's end a mel variant uses: a centred window ends at `hop·t + W/2 − 1`."""
    return max(0, centred_window(variant) // 2 - HOP_SAMPLES)
