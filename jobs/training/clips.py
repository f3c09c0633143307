"""Audio samples for TensorBoard: at each evaluation the model continues the start of a validation sample."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from whisper_gpt.jobs.inference.continuation import Continuations, Prompt, can_continue
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
    """`wav` float32 `[N]`: the decoded prompt and its continuation; `mel` `[T, M]` of it, scaled to 0–1; `codes` int64
    `[n]`: the coarsest codes of the continuation."""

    wav: np.ndarray
    sample_rate: int
    mel: np.ndarray
    codes: np.ndarray


@dataclass(frozen=True)
class Clips:
    """What clips are generated with: a prompt from a validation sample, and the number of frames to add; `real_codes`
    int64 `[T]` are the sample's coarsest codes."""

    codec: Codec
    log_mel: LogMel
    prompt: Prompt
    real_codes: np.ndarray
    frames: int

    def make(self, model: HybridLM, seed: int) -> Clip:
        """Generate a continuation with `model`, which is on the CPU and in evaluation mode, sampling with `seed`."""
        generator = torch.Generator().manual_seed(seed)
        generated = Continuations(model, self.codec, self.log_mel, [self.prompt], _SAMPLING, "decode", [generator])
        audio, codes = [generated.prompt_audio[0]], []
        for _ in range(self.frames):
            audio.append(generated.step()[0])
            codes.append(int(generated.codes[0, 0, -1]))
        wav = torch.cat(audio).clamp(-1, 1)
        mel = self.log_mel(wav)
        least, most = mel.min(), mel.max()
        scaled = (mel - least) / (most - least).clamp_min(1e-6)
        return Clip(wav.numpy(), self.codec.sample_rate, scaled.numpy(), np.array(codes))


def open_clips(session: Session) -> Clips | None:
    """Return what clips need, or None if --clip-s is 0, no validation sample is readable, or the model reads inputs
    that a continuation lacks (codebooks that it does not predict, the future).

    Raises `JobError` or `PipelineError` if the datasets' codec is not found.
    """
    config = session.config
    data = session.state.data
    if config.clip_s == 0 or session.validation is None or not isinstance(session.model, HybridLM):
        return None
    if not can_continue(session.model, data.mel_variant):
        return None
    codec = codec_of(config.out, data, config.codec_weights)
    most = max(1, config.context // 2)
    found = _first_readable(batches(session.validation), most, session.model.config.output_codebooks)
    if found is None:
        return None
    prompt, real_codes = found
    frames = max(1, round(config.clip_s * codec.sample_rate / codec.hop))
    return Clips(codec, LogMel(MelConfig(**data.mel)), prompt, real_codes, frames)


def _first_readable(windows: Iterable[Batch], most: int, n_codebooks: int) -> tuple[Prompt, np.ndarray] | None:
    """Return the first frames, at most `most`, of the first readable window, and all of its coarsest codes."""
    for batch in windows:
        for codes, mel, mask in zip(batch.codes, batch.mel, batch.mask, strict=True):
            if frames := min(most, int(mask.sum())):
                return Prompt(codes[:n_codebooks, :frames], mel[:frames]), codes[0, mask].numpy()
    return None
