"""The frame rate that codec tokens and mel frames share."""

import math

SAMPLE_RATE = 24_000
HOP_SAMPLES = 320
FRAME_RATE = SAMPLE_RATE / HOP_SAMPLES


def frame_count(samples: int) -> int:
    """Return the number of frames (and codes) that cover `samples` samples at 24 kHz: ceil(N / 320)."""
    return math.ceil(samples / HOP_SAMPLES)
