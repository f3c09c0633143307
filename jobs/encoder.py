"""The codec and the mel transform of a worker: on one thread, held against the fingerprint of the plan."""

import torch

from jobs.shard_task import WorkerSetup
from pipeline.codec.causal import Codec
from pipeline.codec.files import SMALL_NAME, weights_file
from pipeline.codec.loading import read_codec
from pipeline.errors import PipelineError
from pipeline.mel import LogMel
from pipeline.scratch import sweep_scratch


def load_encoder(setup: WorkerSetup) -> tuple[Codec, LogMel]:
    """Load what `setup` says, in a process of one thread from then on. Raises `PipelineError` for another codec."""
    torch.set_num_threads(1)
    sweep_scratch()
    wanted = setup.codec
    weights = setup.codec_weights or weights_file(SMALL_NAME)
    codec = read_codec(weights, wanted.codebooks, wanted.precision, setup.device)
    if codec.fingerprint != wanted:
        raise PipelineError(f"a worker's codec {codec.fingerprint} is not the plan's {wanted}")
    return codec, LogMel(setup.mel)
