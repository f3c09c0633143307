"""Train an EnCodec-architecture codec on folders of audio; --resume goes on where a run stopped."""

import fnmatch
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from torch.utils.tensorboard import SummaryWriter
from tyro.conf import Positional

from jobs.codec_checkpoint import FILE_NAME as CHECKPOINT_FILE
from jobs.codec_checkpoint import CodecProgress, read_progress, restore, save_checkpoint
from jobs.config_files import save_config
from jobs.errors import JobError, require
from jobs.progress import progress_line, status_console
from jobs.stop_signals import stop_signals
from pipeline.codec.architecture import CodecArchitecture, architecture_of, build_network, seed_weights
from pipeline.codec.causal import Codec
from pipeline.codec.distances import SCALES, LogMelDistance, noise_to_signal_db
from pipeline.codec.encodec_import import EncodecModel
from pipeline.codec.quality import bitrate_kbps, distances, reconstructions
from pipeline.codec.training.balance import balanced_gradient
from pipeline.codec.training.crops import AudioStore, build_store, random_crops
from pipeline.codec.training.quantizer import QuantizerTrainer
from pipeline.codec.weights import save_weights
from pipeline.corpora import folder, synthetic
from pipeline.mel_config import HOP_SAMPLES

CODEC_FILE = "codec.safetensors"
# k-means of the codebooks' start sees this many frames for each of its entries.
_START_FRAMES_EACH = 16
_VALIDATION_S = 60.0
_RISE_STEPS = 50


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt train-codec`."""

    audio: Positional[tuple[Path, ...]]
    """Folders of audio, searched through."""
    out: Path
    """Folder of the run: the codec, a checkpoint, TensorBoard, the decoded audio (173 MB an hour)."""
    hold_out: tuple[str, ...] = ()
    """Files whose path matches one of these patterns (as */dev-clean/*) are scored, never trained on."""
    made_pieces: int = 0
    """Piano-like pieces of 30 s to make and train on as well."""
    name: str = "codec"
    """What the codec is called in the datasets it makes."""
    about: str = ""
    """A sentence on origin and licence, kept in its file."""
    width: int = 8
    """Channels at full rate; the official model has 32."""
    latent: int = 64
    """Channels that are quantized; the official model has 128."""
    codebooks: int = 8
    """Codebooks of the residual quantizer."""
    codebook_size: int = 1024
    """Codewords in each, a power of two."""
    steps: int = 7_000
    """Optimizer steps."""
    minutes: float | None = None
    """Stop after this many minutes if that is sooner; the learning rate then follows the clock."""
    batch: int = 12
    """Crops a step."""
    crop_frames: int = 50
    """Frames a crop: 50 are 0.67 s."""
    learning_rate: float = 1e-3
    """Its peak; it falls to zero along a cosine."""
    unquantized: float = 0.03
    """Share of the run before the quantizer is put in."""
    waveform: float = 1.0
    """Share of the gradient that the waveform has, against 1 for the spectra."""
    commitment: float = 0.5
    """How hard latents are pulled to their codewords: at a distance of 1, this share of the decoder's gradient."""
    seed: int = 0
    """Of the initial weights and of what is drawn."""
    eval_every: int = 1000
    """Steps between scores on the files held out, and between checkpoints."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where to train."""
    resume: bool = False
    """Go on from the checkpoint in --out; pass the same options again."""


@dataclass
class Training:
    """The parts that change as a run goes on."""

    net: EncodecModel
    quantizer: QuantizerTrainer
    optimizer: torch.optim.Optimizer
    log_mel: LogMelDistance
    step: int
    elapsed_s: float


def run(config: Config) -> int:
    """Train, and write the codec → exit code 0."""
    _check(config)
    console = status_console()
    architecture = CodecArchitecture(config.width, config.latent, config.codebooks, config.codebook_size)
    training = _resumed(config, architecture) if config.resume else _new(config, architecture)
    store, held_out = _audio(config, console)
    save_config(config, config.out / "train_codec.yaml", without=["resume"])
    console.print(f"{store.hours:.2f} h to train on, {sum(map(len, held_out)) / 24_000:.0f} s held out")
    with SummaryWriter(str(config.out / "tensorboard"), purge_step=training.step + 1) as writer:
        _train(config, training, store, held_out, writer, console)
    save_weights(config.out / CODEC_FILE, config.name, training.net, config.about)
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
    started = time.monotonic() - training.elapsed_s
    done = _done(config, training)
    first, resumed_at = done, training.elapsed_s
    with progress_line(console, config.steps) as show, stop_signals() as stopped:
        while done < 1 and not stopped():
            for name, value in train_step(config, training, store, done).items():
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
                save_checkpoint(config.out, training.net, training.quantizer, training.optimizer, progress)
    if done < 1:
        raise JobError(f"stopped by a signal at step {training.step}; the same command with --resume goes on")


def train_step(config: Config, training: Training, store: AudioStore, done: float) -> dict[str, float]:
    """One optimizer step, after the share `done` of the run → its losses, by name."""
    net, step = training.net, training.step
    crop = config.crop_frames * HOP_SAMPLES
    if done >= config.unquantized and not training.quantizer.started:
        training.quantizer.start(_sample_latents(config, net, store))
    x = random_crops(store, config.batch, crop, config.seed, step).to(config.device)  # [B, N]
    rate = config.learning_rate * min(1.0, (step + 1) / _RISE_STEPS) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    for group in training.optimizer.param_groups:
        group["lr"] = rate

    latents = net.encoder(x[:, None])  # [B, D, T]
    losses: dict[str, torch.Tensor] = {}
    quantized = latents
    if training.quantizer.started:
        result = training.quantizer(latents, _depth(config, step))
        quantized, losses["commitment"] = result.latents, result.commitment
    # The decoder's gradient ends here, so that the commitment's can be weighed against it.
    handed_over = quantized.detach().requires_grad_()
    y = net.decoder(handed_over)[:, 0]  # [B, N]
    scales = SCALES[step % 2 :: 2]  # every other one in turn: half the time, and the same sum over two steps
    losses |= {"log_mel": training.log_mel(x, y, scales), "waveform_db": noise_to_signal_db(x, y)}
    training.optimizer.zero_grad(set_to_none=True)
    y.backward(balanced_gradient([(losses["log_mel"], 1.0), (losses["waveform_db"], config.waveform)], y))
    gradient = handed_over.grad
    assert gradient is not None
    if "commitment" in losses:
        (pull,) = torch.autograd.grad(losses["commitment"], [latents], retain_graph=True)
        # Its norm times √(B·D·T) / 2 is the root mean square of the distance. A pull of one strength at any distance
        # shrinks the latents for ever, a weaker one lets them grow for ever (docs/experiments.md).
        gradient = gradient + config.commitment * gradient.norm() * pull * latents.numel() ** 0.5 / 2
    latents.backward(gradient)
    training.optimizer.step()
    training.step += 1
    return {f"train/{name}": loss.item() for name, loss in losses.items()} | {
        "train/learning_rate": rate,
        "train/latent_deviation": latents.std().item(),
    }


def _depth(config: Config, step: int) -> int:
    """Through how many codebooks step `step` goes: a power of two below all of them as often as all, so that each
    bitrate is trained and the first codebooks carry what matters most."""
    powers = [2**i for i in range(config.codebooks.bit_length()) if 2**i < config.codebooks]
    random = np.random.default_rng((config.seed, 1, step))
    return int(random.choice(powers)) if powers and random.random() < 0.5 else config.codebooks


@torch.no_grad()
def _sample_latents(config: Config, net: EncodecModel, store: AudioStore) -> torch.Tensor:
    """Latents of crops that no step sees, `[n, D]`: enough for k-means."""
    batches = math.ceil(_START_FRAMES_EACH * config.codebook_size / (config.batch * config.crop_frames))
    samples = config.crop_frames * HOP_SAMPLES
    crops = (random_crops(store, config.batch, samples, config.seed + 2**32, i) for i in range(batches))
    return torch.cat([net.encoder(x[:, None].to(config.device)).transpose(1, 2).flatten(0, 1) for x in crops])


def _score(config: Config, training: Training, held_out: list[np.ndarray]) -> dict[str, float]:
    """Distances on the recordings held out, with one codebook and with all."""
    net = training.net.eval().cpu()
    codec = Codec(config.name, "", config.codebooks, net)
    scores: dict[str, float] = {}
    for depth in sorted({1, config.codebooks}):
        found = distances(held_out, reconstructions(codec, held_out, depth))
        label = f"{bitrate_kbps(codec, depth):.2f}_kbps"
        scores |= {
            f"validation/log_mel_{label}": found.log_mel,
            f"validation/si_sdr_db_{label}": found.si_sdr_db,
        }
    net.train().to(config.device)
    return scores


def _new(config: Config, architecture: CodecArchitecture) -> Training:
    if (config.out / CHECKPOINT_FILE).exists():
        raise JobError(f"{config.out} holds a training run; pass --resume to go on with it, or another --out")
    torch.manual_seed(config.seed)
    net = build_network(architecture)
    seed_weights(net, config.seed)
    return _parts(config, net)


def _resumed(config: Config, architecture: CodecArchitecture) -> Training:
    progress = read_progress(config.out)
    if (progress.architecture, progress.seed) != (architecture, config.seed):
        raise JobError(
            f"{config.out} trains a {progress.architecture} from seed {progress.seed}; pass the options it was started "
            "with, or another --out"
        )
    training = _parts(config, build_network(architecture))
    restore(config.out, training.net, training.quantizer, training.optimizer)
    training.step, training.elapsed_s = progress.step, progress.elapsed_s
    return training


def _parts(config: Config, net: EncodecModel) -> Training:
    net = net.to(config.device).train()
    quantizer = QuantizerTrainer(net).to(config.device)
    optimizer = torch.optim.AdamW(net.parameters(), config.learning_rate, betas=(0.8, 0.99), weight_decay=0.0)
    return Training(net, quantizer, optimizer, LogMelDistance().to(config.device), 0, 0.0)


def _audio(config: Config, console: Console) -> tuple[AudioStore, list[np.ndarray]]:
    """What to train on, and up to a minute of what to score on."""
    files = list(_files(config))
    held_out = [file for file in files if any(fnmatch.fnmatch(str(file), pattern) for pattern in config.hold_out)]
    if config.hold_out and not held_out:
        raise JobError(f"--hold-out {' '.join(config.hold_out)}: matches none of the {len(files)} files")
    train = sorted(set(files) - set(held_out))
    if config.made_pieces:
        made = config.out / "made"
        if not made.exists():
            synthetic.write(made, synthetic.SyntheticSize(utterances=0, pieces=config.made_pieces))
        train += sorted(made.rglob("*.wav"))
    if not train:
        raise JobError("no audio is left to train on; hold out less of it")

    def skipped(file: Path, error: Exception) -> None:
        console.print(f"left out {file}: {error}")

    threads = torch.get_num_threads()
    store = build_store(train, config.out / "audio" / "train", threads, skipped)
    if not held_out:
        return store, []
    scored = build_store(held_out, config.out / "audio" / "held_out", threads, skipped)
    return store, _first_seconds(scored, _VALIDATION_S)


def _files(config: Config) -> Iterator[Path]:
    for root in config.audio:
        if not root.is_dir():
            raise JobError(f"{root}: no such folder")
        for recording in folder.scan(root).recordings:
            yield (root / recording.path).absolute()


def _first_seconds(store: AudioStore, seconds: float) -> list[np.ndarray]:
    """The first up to 10 s of each recording in turn, until there are `seconds`; none shorter than a mel window."""
    pieces: list[np.ndarray] = []
    for i in range(len(store.names)):
        piece = store.recording(i)[: 10 * 24_000].numpy()
        if len(piece) >= 4096:
            pieces.append(piece)
        if sum(map(len, pieces)) >= seconds * 24_000:
            break
    return pieces


def _done(config: Config, training: Training) -> float:
    """Which share of the run is done: by steps, or by the clock where that is further on."""
    by_clock = training.elapsed_s / (60 * config.minutes) if config.minutes else 0.0
    return max(training.step / config.steps, by_clock)


def _check(config: Config) -> None:
    for name in ("steps", "batch", "eval_every"):
        require(getattr(config, name) >= 1, f"--{name.replace('_', '-')} {getattr(config, name)}: must be at least 1")
    require(bool(config.audio), "needs at least one folder of audio")
    require(config.crop_frames >= 8, f"--crop-frames {config.crop_frames}: must be at least 8")
    require(config.minutes is None or config.minutes > 0, f"--minutes {config.minutes}: must be above zero")
    require(config.learning_rate > 0, f"--learning-rate {config.learning_rate}: must be above zero")
    require(0 <= config.unquantized < 1, f"--unquantized {config.unquantized}: must be a share of the run, 0 to 1")
    require(config.seed >= 0, f"--seed {config.seed}: must not be negative")
    require(config.device == "cpu" or torch.cuda.is_available(), "--device cuda: torch finds no CUDA device here")
