"""A clip at each evaluation: how the model goes on from the first seconds of a validation sample, heard and seen."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from whisper_gpt.jobs.inference.continuation import Continuation, Prompt, can_continue
from whisper_gpt.jobs.inference.run_codec import codec_of
from whisper_gpt.jobs.training.session import Session
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.loading.batch import Batch
from whisper_gpt.pipeline.loading.stream import batches

_SAMPLING = Sampling(temperature=1.0, top_k=100)


@dataclass(frozen=True)
class Clip:
    """`wav` float32 `[N]`: the prompt's decoded tokens and the continuation; its `mel` `[T, M]`, scaled to 0–1."""

    wav: np.ndarray
    sample_rate: int
    mel: np.ndarray


@dataclass(frozen=True)
class Clips:
    """What clips are made from: a prompt, which are frames of a validation sample, and how many frames to add."""

    codec: Codec
    log_mel: LogMel
    prompt: Prompt
    frames: int

    def make(self, model: HybridLM, seed: int) -> Clip:
        """A continuation by a copy of `model` on the CPU; the seed decides its draws."""
        generator = torch.Generator().manual_seed(seed)
        own = copy.deepcopy(model).cpu().eval()
        made = Continuation(own, self.codec, self.log_mel, self.prompt, _SAMPLING, "decode", generator)
        wav = torch.cat([made.prompt_audio, *(made.step() for _ in range(self.frames))]).clamp(-1, 1)
        mel = self.log_mel(wav)
        least, most = mel.min(), mel.max()
        scaled = (mel - least) / (most - least).clamp_min(1e-6)
        return Clip(wav.numpy(), self.codec.sample_rate, scaled.numpy())


def open_clips(session: Session) -> Clips | None:
    """What to make clips from, or None if none are asked for, no validation sample can be read, or the model reads
    what a continuation does not have (several codebooks, the future).

    Raises `JobError` or `PipelineError` where the codec of the datasets is not found.
    """
    config = session.config
    data = session.state.data
    if config.clip_s == 0 or session.validation is None or not can_continue(session.model, data.view):
        return None
    codec = codec_of(config.out, data, config.codec_weights)
    prompt = _first_readable(batches(session.validation), max(1, config.context // 2))
    if prompt is None:
        return None
    frames = max(1, round(config.clip_s * codec.sample_rate / codec.hop))
    return Clips(codec, LogMel(MelConfig(**data.mel)), prompt, frames)


def _first_readable(windows: Iterable[Batch], most: int) -> Prompt | None:
    """The first frames, `most` at most, of the first window of one sample that is not damaged."""
    for batch in windows:
        for codes, mel, mask in zip(batch.codes, batch.mel, batch.mask, strict=True):
            if frames := min(most, int(mask.sum())):
                return Prompt(codes[0, :frames], mel[:frames])
    return None
