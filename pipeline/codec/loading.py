"""Loading a codec by its name, or from its file."""

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

    `name` is one of `NAMES`, or the path of a file that `train-codec` wrote. `encodec_24khz` takes its weights from
    `weights`, else `$WHISPER_GPT_CODEC_WEIGHTS`, else torch's hub cache, else the official address.
    Raises `PipelineError` for another name, a missing or damaged file, one that holds another codec than a known
    `name`, or codebooks the model does not have.
    """
    path = weights_file(name, weights)
    codec = read_codec(path, codebooks, precision, device)
    if name in NAMES and codec.name != name:
        raise PipelineError(f"codec weights {path}: hold the codec {codec.name!r}, not {name}; pass it with --codec")
    return codec


def read_codec(path: Path, codebooks: int, precision: Precision = "fp32", device: str = "cpu") -> Codec:
    """Load the codec that the file `path` holds, whatever it is called."""
    found = read_weights(path)
    return Codec(found.name, found.sha256, codebooks, found.net.to(device), precision)
