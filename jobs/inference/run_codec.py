"""The codec whose tokens a run was trained on, or a dataset holds."""

from pathlib import Path

import torch

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.inference.run_folder import TrainedOn
from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.files import NAMES, weights_file
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.codec.loading import read_codec


def codec_of(owner: Location, data: TrainedOn, weights: Path | None, device: torch.device | str = "cpu") -> Codec:
    """The codec of `data`, from the file `weights` or from where its name says; `owner` is the run or the dataset.

    Raises `JobError` where it cannot be found without a file, or the file holds another one; `PipelineError` where
    there is none.
    """
    wanted = CodecFingerprint(**data.codec)
    if weights is None and wanted.name not in NAMES:
        raise JobError(f"{owner}: its tokens are of the codec {wanted.name!r}; pass its file: --codec-weights")
    codec = read_codec(weights or weights_file(wanted.name), wanted.codebooks, wanted.precision, str(device))
    if codec.fingerprint != wanted:
        raise JobError(f"{owner}: its tokens are of other codec weights than were found now; pass its own")
    return codec
