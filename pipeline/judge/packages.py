"""What the extra `judge` installs, and the one rate that all its models take."""

from importlib.util import find_spec

import numpy as np
import soxr

from whisper_gpt.pipeline.frames import SAMPLE_RATE

JUDGE_RATE = 16_000
# Only the weights of Resemblyzer are used, and nothing of what it depends on.
INSTALL = "pip install 'whisper-gpt[judge]' && pip install --no-deps Resemblyzer==0.1.4"

# Package by the module that shows it is there; resemblyzer is looked up, never imported.
_PACKAGES = {
    "speechmos": "speechmos",
    "onnxruntime": "onnxruntime",
    "pocketsphinx": "pocketsphinx",
    "resemblyzer": "Resemblyzer",
    "pesq": "pesq",
    "pystoi": "pystoi",
}


def missing_packages() -> list[str]:
    """Names of the extra's packages that are not installed."""
    return [package for module, package in _PACKAGES.items() if find_spec(module) is None]


def at_judge_rate(wav: np.ndarray) -> np.ndarray:
    """A 24 kHz signal `[N]` at 16 kHz, clipped to ±1 as a 16-bit file would clip it: float32 `[ceil(2N / 3)]`."""
    return np.clip(soxr.resample(wav.astype(np.float32), SAMPLE_RATE, JUDGE_RATE, quality="HQ"), -1.0, 1.0)
