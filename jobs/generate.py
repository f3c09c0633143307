"""Continue a recording, or start without a prompt, and write the audio as a WAV.

The whole WAV is decoded from the codebooks that the model predicts: the prompt's codes, then the continuation.
"""

import io
import itertools
import math
import wave
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
import torch
from rich.progress import track
from tyro.conf import Positional

from whisper_gpt.jobs.common.config_files import save_config
from whisper_gpt.jobs.common.errors import require
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.inference.continuation import (
    Continuations,
    MelSource,
    empty_prompt,
    read_prompt,
    require_can_continue,
    sampling_options,
)
from whisper_gpt.jobs.inference.run_codec import codec_of
from whisper_gpt.jobs.inference.run_folder import load_frame_model
from whisper_gpt.jobs.training.distributed import DeviceChoice, single_process
from whisper_gpt.manifests.publish import publishing
from whisper_gpt.model.checkpoint import SPEECH_MODEL
from whisper_gpt.model.quantization import quantize_int8
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt generate`."""

    out: Path
    """WAV file to write (24 kHz mono); the resolved options are saved as OUT.wav.yaml."""
    run: Positional[Path] = SPEECH_MODEL
    """Folder of a training run, or of a single checkpoint; by default the speech model in the package."""
    prompt: Path | None = None
    """Audio file to continue. All of it is encoded; its last frames, up to half the model's context, are the prompt and
    begin the WAV."""
    checkpoint: Literal["newest", "best"] = "newest"
    """Checkpoint of the run: the newest, or the one with the best validation score."""
    seconds: float = 5.0
    """Length of the continuation in seconds."""
    count: int = 1
    """Number of continuations, generated side by side; if there are several, OUT.wav becomes OUT-1.wav, OUT-2.wav, …"""
    temperature: float = 1.0
    """Sampling temperature; 0 always takes the most likely token."""
    finer_temperature: float | None = None
    """Sampling temperature of all codebooks but the coarsest; by default the same."""
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
    compile: bool = False
    """Run the model's steps as code that torch generates: about twice as fast per frame, after one to five minutes of
    compilation."""
    int8: bool = False
    """Round the model's matrices to 8 bits, on a CPU: frames are generated faster, and the likelihood hardly
    changes."""
    codec_weights: Path | None = None
    """File with the weights of the codec that the model was trained with, if it is not found without this option."""


def run(config: Config) -> int:
    """Generate, write the WAV and the resolved options; return exit code 0."""
    sampling = sampling_options(config.temperature, config.top_k, config.top_p, config.finer_temperature)
    require(config.out.suffix.lower() == ".wav", f"--out {config.out}: must end in .wav")
    require(config.count >= 1, f"--count {config.count}: must be at least 1")
    same = config.prompt is not None and config.prompt.absolute() in [file.absolute() for file in _files(config)]
    require(not same, f"--out {config.out}: would overwrite the prompt")
    require(0 < config.seconds < math.inf, f"--seconds {config.seconds}: must be above zero")
    model, state = load_frame_model(config.run, config.checkpoint == "best")
    require_can_continue(config.run, model, state.data.mel_variant)
    device = single_process(config.device).device
    model = model.to(device)
    if config.int8:
        quantize_int8(model)
    codec = codec_of(config.run, state.data, config.codec_weights, device)
    log_mel = LogMel(MelConfig(**state.data.mel))
    frames = round(config.seconds * codec.sample_rate / codec.hop)
    n_codebooks = model.config.output_codebooks
    prompt = empty_prompt(n_codebooks, log_mel)
    if config.prompt:
        half = model.config.context // 2
        prompt = read_prompt(config.prompt, half, codec, log_mel.config, state.data.mel_variant, n_codebooks)
    generators = [torch.Generator().manual_seed(config.seed + i) for i in range(config.count)]
    prompts = [prompt] * config.count
    generated = Continuations(model, codec, log_mel, prompts, sampling, config.mel, generators, config.compile)
    console, files = status_console(), _files(config)
    with ExitStack() as stack:
        if config.count == 1:
            stack.enter_context(_one_thread())
        sounds = [stack.enter_context(_sound(file, codec.sample_rate)) for file in files]
        steps = track(range(frames), "generating", console=console, transient=True)
        for audio in itertools.chain([generated.prompt_audio], (generated.step() for _ in steps)):
            for sound, piece in zip(sounds, audio.clamp(-1, 1).numpy(), strict=True):
                sound.writeframesraw(_pcm16(piece))
    save_config(config, config.out.with_name(f"{config.out.name}.yaml"))
    prompt_s = generated.prompt_audio.shape[1] / codec.sample_rate
    console.print(
        f"{', '.join(map(str, files))}: {prompt_s:.1f} s of prompt, {config.seconds:.1f} s generated by "
        f"{model.config.name} at step {state.step}, codec {codec.name}"
    )
    return 0


def _files(config: Config) -> list[Path]:
    """Return the WAV of each continuation."""
    if config.count == 1:
        return [config.out]
    return [config.out.with_stem(f"{config.out.stem}-{i}") for i in range(1, config.count + 1)]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread of the CPU: more hardly speed up a frame's small products, and on a busy machine they
    wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _sound(path: Path, sample_rate: int) -> Iterator[wave.Wave_write]:
    """Write a mono 16-bit WAV, published once it is complete."""
    with publishing(path) as file, wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(sample_rate)
        yield sound


def _pcm16(audio: np.ndarray) -> bytes:
    """Convert `audio` float32 `[n]` to 16-bit PCM, in memory: libsndfile prints the errors of Python file objects."""
    buffer = io.BytesIO()
    soundfile.write(buffer, audio, 1, "PCM_16", format="RAW")
    return buffer.getvalue()
