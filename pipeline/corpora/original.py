"""The audio that a sample was made from."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from whisper_gpt.manifests.location import Location, local_copy
from whisper_gpt.pipeline.audio import read_part
from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.treatment import treatment_of


def read_original(corpus: Location, row: Mapping[str, Any], samples: int) -> np.ndarray:
    """Read the first `samples` samples at 24 kHz, float32 `[N]`, of what the sample in a manifest's row was made from.

    Raises `AudioError` if its file is damaged, or, in a folder, missing.
    """
    with local_copy(corpus, row["source"]) as file:
        return read_part(file, round(row["start_s"] * SAMPLE_RATE), samples, treatment_of(row["extra"]))
