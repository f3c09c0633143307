"""Continue audio with a trained model, frame by frame.

The sampled codes of a frame are decoded at once to their 320 samples, and the mel frame of those is the model's next
input (decode and re-analyse), so the mel input always matches the audio that was actually generated.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from whisper_gpt.jobs.common.errors import JobError, UsageError
from whisper_gpt.model.cache import Cache, empty_cache
from whisper_gpt.model.compilation import compiled_if
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.hybrid import HybridLM, Prediction
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.audio import stream_mono
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.streaming import StreamState, join
from whisper_gpt.pipeline.errors import AudioError
from whisper_gpt.pipeline.features.encode import align_recordings
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import AUDIO, MelConfig
from whisper_gpt.pipeline.float32 import full_float32

MelSource = Literal["decode", "predict", "none"]

_READ_FRAMES = 750  # per segment; only the end of the prompt is kept


@dataclass(frozen=True)
class Prompt:
    """Frames to continue from: `codes` int64 `[K, n]` of the codebooks that the model predicts, and their `mel` float32
    `[n, M]` as in datasets (not normalised), of the mel variant that the model was trained on."""

    codes: torch.Tensor
    mel: torch.Tensor


def empty_prompt(n_codebooks: int, log_mel: LogMel) -> Prompt:
    """Return a prompt without any frame."""
    return Prompt(torch.zeros(n_codebooks, 0, dtype=torch.long), torch.zeros(0, log_mel.config.bands))


def can_continue(model: HybridLM, variant: str) -> bool:
    """Whether a model's inputs are available in generation, which has the codebooks that it predicts, and no future.

    A model of real audio's mel is given the mel of decoded audio, which it was not trained on.
    """
    n_codebooks = model.config.output_codebooks
    return 1 <= model.config.input_codebooks <= n_codebooks and variant in (AUDIO, f"codes-{n_codebooks}")


def require_can_continue(run: Path, model: HybridLM, variant: str) -> None:
    """Raise `JobError` if the inputs of a run's model are not available in generation."""
    if not can_continue(model, variant):
        raise JobError(
            f"{run}: reads {model.config.input_codebooks} codebooks and the mel variant {variant}; generation has the "
            f"{model.config.output_codebooks} that the model predicts, their mel, and no future"
        )


def sampling_options(temperature: float, top_k: int, top_p: float, finer_temperature: float | None) -> Sampling:
    """Return the sampling of a verb's options. Raises `UsageError` if one is out of range."""
    try:
        return Sampling(temperature, top_k, top_p, finer_temperature)
    except ModelError as error:
        raise UsageError(str(error)) from error


def read_prompt(path: Path, frames: int, codec: Codec, mel: MelConfig, variant: str, n_codebooks: int = 1) -> Prompt:
    """Return the last `frames` whole frames of the audio in `path`, as `preprocess` would encode the whole recording.

    Of the codec's codebooks the coarsest `n_codebooks` are returned. The codec's state is that after all earlier audio;
    memory does not grow with the recording. Raises `JobError` if the file is not audio, or is shorter than a frame.
    """
    log_mel = LogMel(replace(mel, variants=(variant,)))
    codes, mels, samples = np.zeros((n_codebooks, 0), np.int16), np.zeros((0, mel.bands), np.float16), 0
    try:
        (segments,) = align_recordings([stream_mono(path, codec.sample_rate)], codec, log_mel, _READ_FRAMES)
        for segment in segments:
            samples += segment.samples
            # One frame more than is kept: the last may be incomplete.
            codes = np.concatenate([codes, segment.codes[:n_codebooks]], axis=1)[:, -frames - 1 :]
            mels = np.concatenate([mels, segment.mel])[-frames - 1 :]
    except AudioError as error:
        raise JobError(f"--prompt {path}: {error}") from error
    if samples < codec.hop:
        raise JobError(f"--prompt {path}: shorter than one frame of {codec.hop} samples")
    whole = codes.shape[1] - (samples % codec.hop > 0)
    kept = slice(max(0, whole - frames), whole)
    return Prompt(torch.from_numpy(codes[:, kept]).long(), torch.from_numpy(mels[kept]).float())


class Continuations:
    """Continuations of several prompts of equal length, side by side: `prompt_audio` float32 `[B, n · hop]` is the
    prompts decoded, `step` adds a frame to each.

    Model and codec compute on their own devices, mel frames and the noise to sample with on the CPU. Each continuation
    has its own generator, so its codes are those that it has alone, but for ties in float rounding.

    They may be endless: memory and time per frame are constant. `codes` `[B, K, n]` and `mel` `[B, n, M]` hold the last
    half context of the history; once the cache is full, a new one is filled from them.

    `compiled` runs the model's steps as generated code: about twice as fast, after one to five minutes of compilation,
    and equal but for rounding.
    """

    @torch.no_grad()
    def __init__(
        self,
        model: HybridLM,
        codec: Codec,
        log_mel: LogMel,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        mel_source: MelSource,
        generators: Sequence[torch.Generator],
        compiled: bool = False,
    ):
        self._compiled = compiled
        self._model, self._codec, self._log_mel = model, codec, log_mel
        self._sampling, self._mel_source, self._generators = sampling, mel_source, generators
        codes, mel = torch.stack([p.codes for p in prompts]), torch.stack([p.mel for p in prompts])
        self._decoder = join([codec.decoder_start(codebooks=codes.shape[1])] * len(prompts))
        self._mel_context = log_mel.start().expand(len(prompts), -1)
        self._history_frames = max(1, model.config.context // 2)
        self.prompt_audio = torch.zeros(len(prompts), 0)
        if codes.shape[2]:
            self.prompt_audio = self._decode(codes)
            _, self._mel_context = log_mel.step(self._mel_context, self.prompt_audio)
        self.codes = codes[..., -self._history_frames :]
        self.mel = _normalise(model, mel[:, -self._history_frames :])
        self._cache, self._prediction = prefill(model, self.codes, self.mel, mel_source)

    @torch.no_grad()
    def step(self) -> torch.Tensor:
        """Sample the codes of each one's next frame, and return its audio float32 `[B, hop]`."""
        codes = self._model.draw(self._prediction, self._sampling, self._generators, self._compiled)  # [B, K]
        codes = codes[..., None]
        audio = self._decode(codes)
        mel = self._next_mel(audio)
        self.codes = torch.cat([self.codes, codes], dim=2)[..., -self._history_frames :]
        self.mel = torch.cat([self.mel, mel], dim=1)[:, -self._history_frames :]
        if self._cache.position == self._cache.capacity:
            self._cache, self._prediction = prefill(self._model, self.codes, self.mel, self._mel_source)
        else:
            tokens = self._model.embedding_rows(codes)
            self._prediction = predict_after(self._model, tokens, mel, self._mel_source, self._cache, self._compiled)
        return audio

    def _decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Decode codes `[B, K, n]` to the next samples `[B, n · hop]` of the streams."""
        decoded, self._decoder = decode_next(self._codec, self._decoder, codes.to(self._codec.device), self._compiled)
        return decoded.cpu()

    def _next_mel(self, audio: torch.Tensor) -> torch.Tensor:
        """Return the normalised mel `[B, 1, M]` of the last generated frame."""
        if self._mel_source == "predict" and self._prediction.mel_location is not None:
            return self._prediction.mel_location[:, -1:].cpu()
        if self._mel_source == "decode" and self._model.config.hybrid:
            analysed, self._mel_context = self._log_mel.step(self._mel_context, audio)
            return _normalise(self._model, analysed)
        return self.mel.new_zeros(len(self.mel), 1, self.mel.shape[2])


def decode_next(
    codec: Codec, state: StreamState, codes: torch.Tensor, compiled: bool
) -> tuple[torch.Tensor, StreamState]:
    """Decode as `codec.decode_chunk`; a single frame by generated code if `compiled`."""
    with torch.no_grad(), full_float32():
        return compiled_if(compiled and codes.shape[2] == 1, Codec.run_decoder)(codec, state, codes)


def prefill(model: HybridLM, codes: torch.Tensor, mel: torch.Tensor, mel_source: MelSource) -> tuple[Cache, Prediction]:
    """Fill a new cache with frames of `codes` `[B, K, n]` and normalised `mel` `[B, n, M]`; return it, and the
    predictions of frames 0 to n."""
    cache = empty_cache(model.config, batch=len(codes), device=model.device)
    tokens = F.pad(model.embedding_rows(codes), (1, 0), value=model.begin_token)  # [B, K', 1 + n]
    return cache, predict_after(model, tokens, F.pad(mel, (0, 0, 1, 0)), mel_source, cache)


def predict_after(
    model: HybridLM,
    tokens: torch.Tensor,
    mel: torch.Tensor,
    mel_source: MelSource,
    cache: Cache,
    compiled: bool = False,
) -> Prediction:
    """Return the predictions after embedding rows `tokens` `[B, K', n]` and normalised `mel` `[B, n, M]`; a begin token
    has no mel."""
    tokens, mel = tokens.to(model.device), mel.to(model.device)
    mel_mask = tokens[:, 0] != model.begin_token
    if mel_source == "none":
        mel_mask = torch.zeros_like(mel_mask)
    predict_next = compiled_if(compiled, HybridLM.predict_next)
    return predict_next(model, tokens, mel if model.config.hybrid else None, mel_mask, cache)


def _normalise(model: HybridLM, mel: torch.Tensor) -> torch.Tensor:
    return model.mel_encoder.normalise(mel.to(model.device)).cpu() if model.config.hybrid else mel
