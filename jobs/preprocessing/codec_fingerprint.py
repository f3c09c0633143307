"""The fingerprint of a codec in a file, for a process that must not hold the codec."""

from pathlib import Path

from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint, Precision


def codec_fingerprint(weights: Path, codebooks: int, precision: Precision) -> CodecFingerprint:
    """Load the codec in the file `weights`, with all that takes, for its fingerprint alone."""
    from whisper_gpt.pipeline.codec.loading import read_codec

    return read_codec(weights, codebooks, precision).fingerprint
