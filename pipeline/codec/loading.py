"""Load a codec by its name, or from its file."""

from pathlib import Path

from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.files import NAMES, OFFICIAL_NAME, weights_file
from whisper_gpt.pipeline.codec.fingerprint import Precision
from whisper_gpt.pipeline.codec.weights import read_weights
from whisper_gpt.pipeline.errors import PipelineError


def load_codec(
    name: str = OFFICIAL_NAME,
    weights: Path | None = None,
    codebooks: int = 8,
    precision: Precision = "fp32",
    device: str = "cpu",
) -> Codec:
    """Load a codec with its first `codebooks` codebooks, ready to encode and decode on `device`.

    `name` is one of `NAMES`, or the path of a file that `train-codec` wrote. The weights of `encodec_24khz` come from
    `weights`, else `$WHISPER_GPT_CODEC_WEIGHTS`, else torch's hub cache, else the official URL. Raises `PipelineError`
    if the name is unknown, the file is missing, damaged or of another codec, or the model has fewer codebooks.
    """
    path = weights_file(name, weights)
    codec = read_codec(path, codebooks, precision, device)
    if name in NAMES and codec.name != name:
        raise PipelineError(f"codec weights {path}: of the codec {codec.name!r}, not {name}; pass the file to --codec")
    return codec


def read_codec(path: Path, codebooks: int, precision: Precision = "fp32", device: str = "cpu") -> Codec:
    """Load the codec in the file `path`, whatever its name is."""
    weights = read_weights(path)
    return Codec(weights.name, weights.sha256, codebooks, weights.net.to(device), precision)
