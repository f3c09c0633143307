"""Loading a codec by its name, or from its file."""

from pathlib import Path

from pipeline.codec.causal import Codec
from pipeline.codec.files import OFFICIAL_NAME, weights_file
from pipeline.codec.fingerprint import Precision
from pipeline.codec.weights import read_weights


def load_codec(
    name: str = OFFICIAL_NAME, weights: Path | None = None, codebooks: int = 8, precision: Precision = "fp32"
) -> Codec:
    """Load a codec with its first `codebooks` codebooks, ready to encode and decode on the CPU.

    `name` is one of `NAMES`, or the path of a file that `train-codec` wrote. `encodec_24khz` takes its weights from
    `weights`, else `$WHISPER_GPT_CODEC_WEIGHTS`, else torch's hub cache, else the official address.
    Raises `PipelineError` for another name, a missing or damaged file, or codebooks the model does not have.
    """
    return read_codec(weights_file(name, weights), codebooks, precision)


def read_codec(path: Path, codebooks: int, precision: Precision = "fp32") -> Codec:
    """Load the codec that the file `path` holds."""
    found = read_weights(path)
    return Codec(found.name, found.sha256, codebooks, found.net, precision)
