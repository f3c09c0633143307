"""The codec and the mel transform of a worker: load them and check them against the plan; encode as a dry run."""

import contextlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from whisper_gpt.manifests.scratch import remove_stale_scratch
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.files import weights_file
from whisper_gpt.pipeline.codec.loading import read_codec
from whisper_gpt.pipeline.errors import AudioError, PipelineError
from whisper_gpt.pipeline.features.encode import align_recordings
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.shards.task import WorkerSetup


def load_encoder(setup: WorkerSetup) -> tuple[Codec, LogMel]:
    """Load the codec and mel of `setup`, and limit torch to one thread in this process.

    Raises `PipelineError` if the codec is not the plan's.
    """
    torch.set_num_threads(1)
    remove_stale_scratch()
    planned = setup.codec
    weights = setup.codec_weights or weights_file(planned.name)
    codec = read_codec(weights, planned.codebooks, planned.precision, setup.device)
    if codec.fingerprint != planned:
        raise PipelineError(f"{weights}: the worker's codec {codec.fingerprint} is not the plan's {planned}")
    return codec, LogMel(setup.mel, codec.device)


def dry_encode(recordings: Sequence[Iterable[np.ndarray]], codec: Codec, log_mel: LogMel, segment_frames: int) -> None:
    """Encode recordings (each in blocks `[n]`) as for a shard, and discard the result; skip unreadable ones."""
    for segments in align_recordings(recordings, codec, log_mel, segment_frames):
        with contextlib.suppress(AudioError):
            for _ in segments:
                pass
