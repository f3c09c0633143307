"""The packages of the extra `judge`, and the sample rate that all its models need."""

from importlib.util import find_spec

import numpy as np
import soxr

from whisper_gpt.pipeline.frames import SAMPLE_RATE

JUDGE_RATE = 16_000
# Without dependencies, because only the weights of Resemblyzer are used.
INSTALL = "pip install 'whisper-gpt[judge]' && pip install --no-deps Resemblyzer==0.1.4"

# Maps the module that shows that a package is installed to the package; resemblyzer is looked up, never imported.
_PACKAGES = {
    "speechmos": "speechmos",
    "onnxruntime": "onnxruntime",
    "pocketsphinx": "pocketsphinx",
    "resemblyzer": "Resemblyzer",
    "pesq": "pesq",
    "pystoi": "pystoi",
}


def missing_packages() -> list[str]:
    """Return the names of the extra's packages that are not installed."""
    return [package for module, package in _PACKAGES.items() if find_spec(module) is None]


def at_judge_rate(wav: np.ndarray) -> np.ndarray:
    """Resample a 24 kHz signal `[N]` to 16 kHz, clipped to ±1 as in a 16-bit file: float32 `[ceil(2N / 3)]`."""
    return np.clip(soxr.resample(wav.astype(np.float32), SAMPLE_RATE, JUDGE_RATE, quality="HQ"), -1.0, 1.0)
