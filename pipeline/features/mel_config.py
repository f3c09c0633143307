"""How mel frames are laid out in time and frequency: what a dataset says of them, and what other parts need to know."""

import re
from dataclasses import dataclass

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.frames import HOP_SAMPLES, SAMPLE_RATE

# What a view is the mel of. `codes-K`: the sound of a recording's coarsest K codebooks, decoded. `centred-W`: of the
# audio, but with the window of W samples around each frame's begin, as torch.stft and librosa have it by default.
AUDIO = "audio"
_DECODED = re.compile(r"codes-([1-9]\d*)")
_CENTRED = re.compile(r"centred-([1-9]\d*)")


@dataclass(frozen=True)
class MelConfig:
    """How the mel frames are made; part of a dataset's fingerprint.

    `window_samples` reaches back from the end of the frame. Values are log10 of power, never below
    log10(`floor`): a constant, because a floor taken from the clip (as Whisper's) would look into its future.
    `views` are the mels that each sample holds, the first of them as its `mel`.
    """

    bands: int = 64
    window_samples: int = 1024
    hop_samples: int = HOP_SAMPLES
    sample_rate: int = SAMPLE_RATE
    floor: float = 1e-10
    views: tuple[str, ...] = (AUDIO,)

    def __post_init__(self) -> None:
        object.__setattr__(self, "views", tuple(self.views))  # a list where it was read from JSON
        if self.window_samples < self.hop_samples:
            raise PipelineError(f"--mel-window {self.window_samples} is shorter than the hop of {self.hop_samples}")
        if not 1 <= self.bands <= self.window_samples // 4:
            raise PipelineError(f"--mels {self.bands} does not fit a window of {self.window_samples} samples")
        for view in self.views:
            if view != AUDIO and not decoded_codebooks(view) and not lookahead_samples(view):
                raise PipelineError(f"{view!r} is no view: audio, codes-K or centred-W (of more than two hops)")

    @property
    def context_samples(self) -> int:
        """Samples before a frame's own hop that its window covers."""
        return self.window_samples - self.hop_samples


def decoded_codebooks(view: str) -> int:
    """How many codebooks a view is decoded from; 0 where it is not of codes."""
    match = _DECODED.fullmatch(view)
    return int(match[1]) if match else 0


def centred_window(view: str) -> int:
    """The window, in samples, of a view that looks into the future; 0 for one that does not."""
    match = _CENTRED.fullmatch(view)
    return int(match[1]) if match else 0


def lookahead_samples(view: str) -> int:
    """Samples past its frame's last that a view sees: a centred window reaches to `hop·t + W/2 − 1`."""
    return max(0, centred_window(view) // 2 - HOP_SAMPLES)
