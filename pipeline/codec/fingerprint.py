"""The fingerprint of a codec: everything that its codes depend on."""

from dataclasses import dataclass
from typing import Literal

Precision = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class CodecFingerprint:
    """Codecs with equal fingerprints give the same codes for the same audio."""

    name: str
    weights_sha256: str
    sample_rate: int
    hop_samples: int
    codebooks: int
    codebook_size: int
    precision: Precision = "fp32"
    edges: str = "8 zero frames before, zeros after to a whole frame"
