"""Audio as a WAV file in memory."""

import io

import numpy as np
import soundfile

from whisper_gpt.pipeline.frames import SAMPLE_RATE


def wav_bytes(samples: np.ndarray) -> bytes:
    """Return 24 kHz mono `samples` `[N]` as a WAV file of 16 bits; what is beyond ±1 is clipped."""
    file = io.BytesIO()
    soundfile.write(file, np.clip(samples, -1, 1), SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return file.getvalue()
