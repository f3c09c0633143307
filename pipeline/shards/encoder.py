"""The codec and the mel transform of a worker: loaded on one thread, held against the plan, and tried."""

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from whisper_gpt.manifests.scratch import remove_stale_scratch
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.files import SMALL_NAME, weights_file
from whisper_gpt.pipeline.codec.loading import read_codec
from whisper_gpt.pipeline.errors import AudioError, PipelineError
from whisper_gpt.pipeline.features.encode import align_recordings
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.shards.task import WorkerSetup


def load_encoder(setup: WorkerSetup) -> tuple[Codec, LogMel]:
    """Load what `setup` says, in a process of one thread from then on. Raises `PipelineError` for another codec."""
    torch.set_num_threads(1)
    remove_stale_scratch()
    wanted = setup.codec
    weights = setup.codec_weights or weights_file(SMALL_NAME)
    codec = read_codec(weights, wanted.codebooks, wanted.precision, setup.device)
    if codec.fingerprint != wanted:
        raise PipelineError(f"a worker's codec {codec.fingerprint} is not the plan's {wanted}")
    return codec, LogMel(setup.mel)


def encode_for_nothing(
    recordings: Sequence[Iterable[np.ndarray]], codec: Codec, log_mel: LogMel, segment_frames: int
) -> None:
    """Encode recordings (each in blocks `[n]`) as a shard's are, and keep nothing; what cannot be read is left out."""
    for segments in align_recordings(recordings, codec, log_mel, segment_frames):
        with contextlib.suppress(AudioError):
            for _ in segments:
                pass
