"""Train an EnCodec-architecture codec on folders of audio; --resume continues a stopped run."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from tyro.conf import Positional

from whisper_gpt.jobs.codec.checkpoint import FILE_NAME as CHECKPOINT_FILE
from whisper_gpt.jobs.codec.checkpoint import CodecProgress, read_progress, restore, save_checkpoint
from whisper_gpt.jobs.common.config_files import resume_with_saved_options, save_config
from whisper_gpt.jobs.common.curves import curves
from whisper_gpt.jobs.common.errors import JobError, UsageError, require
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import progress_line, share_done, status_console
from whisper_gpt.jobs.common.signals import stop_signals
from whisper_gpt.pipeline.audio import read_mono
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture, architecture_of, build_network, seed_weights
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.distances import SCALES
from whisper_gpt.pipeline.codec.files import weights_file
from whisper_gpt.pipeline.codec.fingerprint import Precision
from whisper_gpt.pipeline.codec.quality import bitrate_kbps, distances, reconstructions
from whisper_gpt.pipeline.codec.training.crops import AudioStore, build_store
from whisper_gpt.pipeline.codec.training.step import Recipe, Training, begin, train_step
from whisper_gpt.pipeline.codec.weights import read_weights, save_weights
from whisper_gpt.pipeline.corpora import folder, synthetic, synthetic_piano
from whisper_gpt.pipeline.errors import AudioError, PipelineError
from whisper_gpt.pipeline.frames import SAMPLE_RATE

CODEC_FILE = "codec.safetensors"
CONFIG_FILE = "train_codec.yaml"
_VALIDATION_S = 60.0
_PIECE_S = 30.0


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt train-codec`."""

    audio: Positional[tuple[Path, ...]]
    """Folders of audio, searched recursively."""
    out: Path
    """Folder of the run: the codec, a checkpoint, TensorBoard logs, the decoded audio (173 MB per hour)."""
    hold_out: tuple[str, ...] = ()
    """Path patterns (such as */dev-clean/*) of files that are used for validation, never for training."""
    synthetic_pieces: int = 0
    """Number of synthetic piano-like pieces of 30 s to add to the training data, and of speech-like utterances of about
    6 s."""
    name: str = "codec"
    """Name of the codec, recorded in datasets that are encoded with it."""
    about: str = ""
    """A sentence on the codec's origin and licence, stored in its file."""
    init: str | None = None
    """Start from the weights of this codec (a name or a file) instead of random ones. It determines --width, --latent,
    --codebooks and --codebook-size."""
    width: int = 16
    """Channels at the full sample rate; the official model has 32."""
    latent: int = 128
    """Dimension of the latent that is quantized; 128 in the official model."""
    codebooks: int = 8
    """Number of codebooks of the residual quantizer."""
    codebook_size: int = 1024
    """Codewords per codebook, a power of two."""
    steps: int = 7_000
    """Number of optimizer steps."""
    minutes: float | None = None
    """Stop after this many minutes, if that comes before --steps; the learning-rate schedule then follows the clock."""
    batch: int = 12
    """Crops per step."""
    crop_frames: int = 50
    """Frames per crop: 50 are 0.67 s."""
    learning_rate: float = 1e-3
    """Peak learning rate; it decays to zero along a cosine."""
    waveform: float = 1.0
    """Gradient share of the waveform loss, relative to 1 for the spectral losses."""
    adversarial: float = 1.0
    """Gradient share of a multi-scale STFT discriminator (adversarial loss and feature matching), relative to 1 for the
    spectral losses. 0 trains without a discriminator, in about two thirds of the time."""
    adversarial_from: float = 0.1
    """Share of the run after which the discriminator is switched on."""
    degraded: float = 1.0
    """Share of crops that are degraded (mixed with another, in a room, with noise, clipped), relative to the usual
    share of 30 %. 0 trains on clean sound only."""
    precision: Precision = "fp32"
    """Autocast precision of the networks; weights, codebooks and losses stay in fp32."""
    seed: int = 0
    """Random seed of the initial weights and of the crops."""
    eval_every: int = 1000
    """Steps between evaluations on the held-out files, and between checkpoints."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Device to train on."""
    resume: bool = False
    """Resume from the checkpoint in --out, with the saved options unless they are given again."""


def with_saved_options(arguments: list[str]) -> list[str]:
    """With --resume, use the run's saved options as defaults."""
    return resume_with_saved_options(arguments, CONFIG_FILE)


def run(config: Config) -> int:
    """Train and write the codec; return exit code 0."""
    _check(config)
    console = status_console()
    training = _resumed(config) if config.resume else _new(config)
    with output_lock(config.out):
        store, held_out = _audio(config, console)
        save_config(config, config.out / CONFIG_FILE, without=["resume"])
        scored_s = sum(map(len, held_out)) / SAMPLE_RATE
        console.print(f"{store.hours:.2f} h of training audio, {scored_s:.0f} s of held-out audio")
        with curves(config.out, training.step + 1) as writer:
            _train(config, training, store, held_out, writer, console)
        save_weights(config.out / CODEC_FILE, config.name, training.averaged(), config.about)
    console.print(f"{config.out / CODEC_FILE}")
    return 0


def _train(
    config: Config,
    training: Training,
    store: AudioStore,
    held_out: list[np.ndarray],
    writer: SummaryWriter,
    console: Console,
) -> None:
    recipe = _recipe(config)
    started = time.monotonic() - training.elapsed_s
    done = _done(config, training)
    first, resumed_at = done, training.elapsed_s
    with progress_line(console, config.steps) as show, stop_signals() as stopped:
        while done < 1 and not stopped():
            for name, value in train_step(recipe, training, store, done).items():
                writer.add_scalar(name, value, training.step)
            training.elapsed_s = time.monotonic() - started
            done = _done(config, training)
            eta_s = (training.elapsed_s - resumed_at) * max(0.0, 1 - done) / max(done - first, 1e-9)
            show(training.step, f"step {training.step} of {config.steps}", eta_s)
            if held_out and (done >= 1 or training.step % config.eval_every == 0):
                for name, value in _score(config, training, held_out).items():
                    writer.add_scalar(name, value, training.step)
                    console.print(f"step {training.step}: {name} {value:.3f}")
            if done >= 1 or stopped() or training.step % config.eval_every == 0:
                progress = CodecProgress(architecture_of(training.net), config.seed, training.step, training.elapsed_s)
                save_checkpoint(config.out, training, progress)
    if done < 1:
        raise JobError(f"stopped by a signal at step {training.step}; to continue, add --resume to the same command")


def _score(config: Config, training: Training, held_out: list[np.ndarray]) -> dict[str, float]:
    """Score the held-out recordings, with one codebook and with all."""
    depths = sorted({1, architecture_of(training.net).codebooks})
    codec = Codec(config.name, "", depths[-1], training.averaged())
    codes = [codec.encode(wav) for wav in held_out]
    scores: dict[str, float] = {}
    for depth in depths:
        result = distances(held_out, reconstructions(codec, held_out, [all_codes[:depth] for all_codes in codes]))
        label = f"{bitrate_kbps(codec, depth):.2f}_kbps"
        scores |= {
            f"validation/log_mel_{label}": result.log_mel,
            f"validation/si_sdr_db_{label}": result.si_sdr_db,
        }
    return scores


def _new(config: Config) -> Training:
    if (config.out / CHECKPOINT_FILE).exists():
        raise JobError(f"{config.out} holds a training run; pass --resume to continue it, or another --out")
    torch.manual_seed(config.seed)
    if config.init is not None:
        net = read_weights(weights_file(config.init)).net.requires_grad_(True)
        training = begin(net.to(config.device), _recipe(config))
        training.quantizer.keep_codebooks()
        return training
    net = build_network(_architecture(config))
    seed_weights(net, config.seed)
    return begin(net.to(config.device), _recipe(config))


def _resumed(config: Config) -> Training:
    progress = read_progress(config.out)
    architecture = progress.architecture if config.init is not None else _architecture(config)
    if (progress.architecture, progress.seed) != (architecture, config.seed):
        raise JobError(
            f"{config.out} trains a {progress.architecture} from seed {progress.seed}; pass its original "
            "options, or another --out"
        )
    training = begin(build_network(architecture).to(config.device), _recipe(config))
    restore(config.out, training)
    training.step, training.elapsed_s = progress.step, progress.elapsed_s
    return training


def _architecture(config: Config) -> CodecArchitecture:
    return CodecArchitecture(config.width, config.latent, config.codebooks, config.codebook_size)


def _recipe(config: Config) -> Recipe:
    return Recipe(**{field.name: getattr(config, field.name) for field in fields(Recipe)})


def _audio(config: Config, console: Console) -> tuple[AudioStore, list[np.ndarray]]:
    """Return the training audio, and up to a minute of held-out audio."""
    files = list(_files(config, console))
    held_out = [file for file in files if folder.matches(file, config.hold_out)]
    if config.hold_out and not held_out:
        raise JobError(f"--hold-out {' '.join(config.hold_out)}: matches none of the {len(files)} files")
    train = sorted(set(files) - set(held_out))
    if config.synthetic_pieces:
        train += _synthetic(config.out / "synthetic", config.synthetic_pieces)
    if not train:
        raise JobError("no audio is left to train on; hold out less")

    def skipped(file: Path, error: Exception) -> None:
        console.print(f"skipped {file}: {error}")

    threads = torch.get_num_threads()
    store = build_store(train, config.out / "audio" / "train", threads, skipped)
    return store, list(_scored(held_out, skipped))


def _synthetic(root: Path, pieces: int) -> list[Path]:
    """Write synthetic speech and piano to `root` unless it exists; return its files."""
    if not root.exists():
        temporary = root.with_name(".synthetic.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        synthetic.write(temporary, synthetic.SyntheticSize(utterances=pieces, pieces=0))
        (temporary / "piano").mkdir()
        for i in range(pieces):
            audio = synthetic_piano.play(_PIECE_S, np.random.default_rng(i))
            synthetic.write_sound(temporary / "piano" / f"{i:04d}.wav", audio, SAMPLE_RATE)
        temporary.replace(root)
    return sorted(path for path in root.rglob("*") if path.suffix in (".wav", ".flac"))


def _files(config: Config, console: Console) -> Iterator[Path]:
    for root in config.audio:
        if not root.is_dir():
            raise JobError(f"{root}: no such folder")
        scan = folder.scan(root)
        for warning in scan.warnings:
            console.print(f"warning: {root}: {warning}")
        for recording in scan.recordings:
            yield (root / recording.path).absolute()


def _scored(files: list[Path], skipped: Callable[[Path, AudioError], None]) -> Iterator[np.ndarray]:
    """Yield up to 10 s of each recording, in a fixed random order, until there is a minute."""
    samples = 0
    for i in np.random.default_rng(0).permutation(len(files)):
        if samples >= _VALIDATION_S * SAMPLE_RATE:
            return
        try:
            piece = read_mono(files[i])[: 10 * SAMPLE_RATE]
        except AudioError as error:
            skipped(files[i], error)
            continue
        if len(piece) >= 2 * max(SCALES):
            samples += len(piece)
            yield piece


def _done(config: Config, training: Training) -> float:
    return share_done(training.step, config.steps, training.elapsed_s, config.minutes)


def _check(config: Config) -> None:
    for name in ("steps", "batch", "eval_every"):
        require(getattr(config, name) >= 1, f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")
    require(bool(config.audio), "pass at least one folder of audio")
    require(config.crop_frames >= 8, f"--crop-frames {config.crop_frames}: must be at least 8")
    require(config.minutes is None or config.minutes > 0, f"--minutes {config.minutes}: must be above zero")
    require(config.learning_rate > 0, f"--learning-rate {config.learning_rate}: must be above zero")
    share = config.adversarial_from
    require(0 <= share < 1, f"--adversarial-from {share}: must be a share of the run, from 0 to below 1")
    require(0 <= config.degraded <= 3, f"--degraded {config.degraded}: must be between 0 and 3")
    for name in ("waveform", "adversarial", "synthetic_pieces"):
        require(getattr(config, name) >= 0, f"--{name.replace('_', '-')} {getattr(config, name)}: must not be negative")
    try:
        _architecture(config)
    except PipelineError as error:
        raise UsageError(str(error)) from error
    require(config.seed >= 0, f"--seed {config.seed}: must not be negative")
    require(config.device == "cpu" or torch.cuda.is_available(), "--device cuda: torch finds no CUDA device here")
