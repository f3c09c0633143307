"""The codec of a run or a dataset."""

from pathlib import Path

import torch

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.run_folder import TrainedOn
from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.files import INCLUDED, NAMES, weights_file
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.codec.loading import read_codec


def codec_of(
    owner: Location,
    data: TrainedOn,
    weights: Path | None,
    device: torch.device | str = "cpu",
    download: bool = True,
) -> Codec:
    """Load the codec of `data` from the file `weights`, or by its name; `owner` is the run or dataset, for messages.

    The official weights are downloaded if they are not there, unless `download` is False.

    Raises `JobError` if its name is not known and no file is given, or if the weights are not those of `data`;
    `PipelineError` if the weights are not found.
    """
    wanted = CodecFingerprint(**data.codec)
    if weights is None and wanted.name not in NAMES:
        raise JobError(f"{owner}: its codec is {wanted.name!r}; pass its file with --codec-weights")
    codec = read_codec(
        weights or weights_file(wanted.name, download=download), wanted.codebooks, wanted.precision, str(device)
    )
    if codec.fingerprint != wanted:
        raise JobError(f"{owner}: {_other_weights(wanted, codec.fingerprint)}")
    return codec


def _other_weights(wanted: CodecFingerprint, found: CodecFingerprint) -> str:
    """Describe that a codec is not the one that is wanted, and what to do."""
    hashes = f"{wanted.weights_sha256[:12]}…, not the {found.weights_sha256[:12]}… found"
    if wanted.name in INCLUDED and wanted.weights_sha256 != found.weights_sha256:
        return (
            f"made with an earlier {wanted.name} (weights {hashes} in this version); preprocess the corpus again, "
            "and train again, or pass the earlier file with --codec-weights"
        )
    return f"encoded with other codec weights ({hashes}); pass --codec-weights"
