"""A clip at each evaluation: how the model goes on from the first seconds of a validation sample, heard and seen."""

import copy
from dataclasses import dataclass

import numpy as np
import torch

from whisper_gpt.jobs.generate import can_continue, continue_audio
from whisper_gpt.jobs.run_codec import codec_of
from whisper_gpt.jobs.training.session import Session
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.mel import LogMel
from whisper_gpt.pipeline.mel_config import MelConfig
from whisper_gpt.pipeline.stream import batches

_SAMPLING = Sampling(temperature=1.0, top_k=100)


@dataclass(frozen=True)
class Clip:
    """`wav` float32 `[N]`: the prompt's decoded tokens and the continuation; its `mel` `[T, M]`, scaled to 0–1."""

    wav: np.ndarray
    sample_rate: int
    mel: np.ndarray


@dataclass(frozen=True)
class Clips:
    """What clips are made from: the view of the mel, a prompt `[N]` of whole frames, and how many frames to add."""

    codec: Codec
    log_mel: LogMel
    view: str
    prompt: np.ndarray
    frames: int

    def make(self, model: HybridLM, seed: int) -> Clip:
        """A continuation by a copy of `model` on the CPU; the seed decides its draws."""
        generator = torch.Generator().manual_seed(seed)
        own = copy.deepcopy(model).cpu().eval()
        pieces = continue_audio(own, self.codec, self.log_mel, self.view, self.prompt, _SAMPLING, "decode", generator)
        wav = torch.cat([next(pieces) for _ in range(1 + self.frames)]).clamp(-1, 1)
        mel = self.log_mel(wav)
        least, most = mel.min(), mel.max()
        scaled = (mel - least) / (most - least).clamp_min(1e-6)
        return Clip(wav.numpy(), self.codec.sample_rate, scaled.numpy())


def open_clips(session: Session) -> Clips | None:
    """What to make clips from, or None where none are asked for, there is no validation split, or the model reads what
    a continuation does not have (several codebooks, the future).

    Raises `JobError` or `PipelineError` where the codec of the datasets is not found.
    """
    config = session.config
    data = session.state.data
    if config.clip_s == 0 or session.validation is None or not can_continue(session.model, data.view):
        return None
    codec = codec_of(config.out, data, config.codec_weights)
    codes = next(batches(session.validation)).codes[0, :, : max(1, config.context // 2)]
    frames = max(1, round(config.clip_s * codec.sample_rate / codec.hop))
    return Clips(codec, LogMel(MelConfig(**data.mel)), data.view, codec.decode(codes.numpy()), frames)
