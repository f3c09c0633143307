"""Continue a recording, or start without a prompt, and write the audio as a WAV.

The whole WAV is decoded from the codebooks that the model predicts: the prompt's codes, then the continuation.
"""

import io
import math
import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from rich.progress import track
from tyro.conf import Positional

from whisper_gpt.jobs.common.config_files import save_config
from whisper_gpt.jobs.common.errors import JobError, UsageError, require
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.inference.continuation import Continuation, MelSource, can_continue, empty_prompt, read_prompt
from whisper_gpt.jobs.inference.run_codec import codec_of
from whisper_gpt.jobs.inference.run_folder import load_run
from whisper_gpt.jobs.training.distributed import DeviceChoice, single_process
from whisper_gpt.manifests.publish import publishing
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.sampling import Sampling
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt generate`."""

    run: Positional[Path]
    """Folder of a training run, or of a single checkpoint."""
    out: Path
    """WAV file to write (24 kHz mono); the resolved options are saved as OUT.yaml."""
    prompt: Path | None = None
    """Audio file to continue. All of it is encoded; its last frames, up to half the model's context, are the prompt and
    begin the WAV."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Checkpoint of the run: the newest, or the one with the best validation score."""
    seconds: float = 5.0
    """Length of the continuation in seconds."""
    temperature: float = 1.0
    """Sampling temperature; 0 always takes the most likely token."""
    top_k: int = 0
    """Sample from the k most likely tokens only; 0: from all."""
    top_p: float = 1.0
    """Sample from the smallest set of most likely tokens with at least this total probability."""
    seed: int = 0
    """Random seed for sampling."""
    mel: MelSource = "decode"
    """Mel input of a hybrid for generated frames: decode (the mel of its decoded tokens), predict (its mel prediction),
    or none."""
    device: DeviceChoice = "auto"
    """Device that model and codec run on; auto takes a GPU if torch finds one."""
    codec_weights: Path | None = None
    """File with the weights of the codec that the model was trained with, if it is not found without this option."""


def run(config: Config) -> int:
    """Generate, write the WAV and the resolved options; return exit code 0."""
    try:
        sampling = Sampling(config.temperature, config.top_k, config.top_p)
    except ModelError as error:
        raise UsageError(str(error)) from error
    require(config.out.suffix.lower() == ".wav", f"--out {config.out}: must end in .wav")
    same = config.prompt is not None and config.out.absolute() == config.prompt.absolute()
    require(not same, f"--out {config.out}: is the prompt itself")
    require(0 < config.seconds < math.inf, f"--seconds {config.seconds}: must be above zero")
    model, state = load_run(config.run, config.checkpoint == "best")
    if not can_continue(model, state.data.mel_variant):
        raise JobError(
            f"{config.run}: reads {model.config.input_codebooks} codebooks and the mel variant "
            f"{state.data.mel_variant}; generation has the {model.config.output_codebooks} that the model predicts, "
            "their mel, and no future"
        )
    device = single_process(config.device).device
    model = model.to(device)
    codec = codec_of(config.run, state.data, config.codec_weights, device)
    log_mel = LogMel(MelConfig(**state.data.mel))
    frames = round(config.seconds * codec.sample_rate / codec.hop)
    n_codebooks = model.config.output_codebooks
    prompt = empty_prompt(n_codebooks, log_mel)
    if config.prompt:
        half = model.config.context // 2
        prompt = read_prompt(config.prompt, half, codec, log_mel.config, state.data.mel_variant, n_codebooks)
    generator = torch.Generator().manual_seed(config.seed)
    continuation = Continuation(model, codec, log_mel, prompt, sampling, config.mel, generator)
    console = status_console()
    with publishing(config.out) as file, wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(codec.sample_rate)
        sound.writeframesraw(_pcm16(continuation.prompt_audio.clamp(-1, 1).numpy()))
        for _ in track(range(frames), "generating", console=console, transient=True):
            sound.writeframesraw(_pcm16(continuation.step().clamp(-1, 1).numpy()))
    save_config(config, config.out.with_name(f"{config.out.name}.yaml"))
    prompt_s = len(continuation.prompt_audio) / codec.sample_rate
    console.print(
        f"{config.out}: {prompt_s:.1f} s of prompt, {config.seconds:.1f} s generated by "
        f"{model.config.name} at step {state.step}, codec {codec.name}"
    )
    return 0


def _pcm16(audio: np.ndarray) -> bytes:
    """Convert `audio` float32 `[n]` to 16-bit PCM, in memory: libsndfile prints the errors of Python file objects."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, 1, "PCM_16", format="RAW")
    return buffer.getvalue()
