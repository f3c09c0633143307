"""One step of a codec's training: crops in, losses out, network and codebooks moved."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from whisper_gpt.pipeline.codec.architecture import codebooks
from whisper_gpt.pipeline.codec.distances import SCALES, LogMelDistance, noise_to_signal_db
from whisper_gpt.pipeline.codec.encodec_import import EncodecModel
from whisper_gpt.pipeline.codec.training.balance import balanced_gradient
from whisper_gpt.pipeline.codec.training.crops import AudioStore, random_crops
from whisper_gpt.pipeline.codec.training.discriminator import (
    MultiScaleDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from whisper_gpt.pipeline.codec.training.quantizer import QuantizerTrainer
from whisper_gpt.pipeline.mel_config import HOP_SAMPLES

# k-means of the codebooks' start sees this many frames for each of its entries.
_START_FRAMES_EACH = 16
_RISE_STEPS = 50
# What random numbers are drawn for, so that no two draws share theirs.
_CROPS, _START, _DEPTHS = range(3)


@dataclass(frozen=True)
class Recipe:
    """What a step depends on beside the network and the audio; `jobs/train_codec.py` says what each means."""

    batch: int
    crop_frames: int
    learning_rate: float
    unquantized: float
    waveform: float
    commitment: float
    adversarial: float
    seed: int


@dataclass
class Training:
    """The parts that change as a run goes on."""

    net: EncodecModel
    quantizer: QuantizerTrainer
    optimizer: torch.optim.Optimizer
    log_mel: LogMelDistance
    critic: "Critic | None"
    step: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Critic:
    """The adversary, where there is one, and what moves it."""

    judge: MultiScaleDiscriminator
    optimizer: torch.optim.Optimizer


def begin(net: EncodecModel, recipe: Recipe) -> Training:
    """A training of `net`, on the device it is on, before its first step."""
    quantizer = QuantizerTrainer(net).to(_device(net))
    optimizer = torch.optim.AdamW(net.parameters(), recipe.learning_rate, betas=(0.8, 0.99), weight_decay=0.0)
    critic = None
    if recipe.adversarial:
        judge = MultiScaleDiscriminator().to(_device(net))
        critic = Critic(judge, torch.optim.AdamW(judge.parameters(), recipe.learning_rate, betas=(0.8, 0.99)))
    return Training(net.train(), quantizer, optimizer, LogMelDistance().to(_device(net)), critic)


def train_step(recipe: Recipe, training: Training, store: AudioStore, done: float) -> dict[str, float]:
    """One optimizer step, after the share `done` of the run → its losses, by name."""
    net, step = training.net, training.step
    crop = recipe.crop_frames * HOP_SAMPLES
    if done >= recipe.unquantized and not training.quantizer.started:
        training.quantizer.start(net, _sample_latents(recipe, net, store))
    x = random_crops(store, recipe.batch, crop, (recipe.seed, _CROPS), step).to(_device(net))  # [B, N]
    rate = recipe.learning_rate * min(1.0, (step + 1) / _RISE_STEPS) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    optimizers = [training.optimizer, *([training.critic.optimizer] if training.critic else [])]
    for group in itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
        group["lr"] = rate

    latents = net.encoder(x[:, None])  # [B, D, T]
    losses: dict[str, torch.Tensor] = {}
    quantized = latents
    if training.quantizer.started:
        result = training.quantizer(net, latents, _depth(recipe, len(training.quantizer.counts), step))
        quantized, losses["commitment"] = result.latents, result.commitment
    # The decoder's gradient ends here, so that the commitment's can be weighed against it.
    handed_over = quantized.detach().requires_grad_()
    y = net.decoder(handed_over)[:, 0]  # [B, N]
    scales = SCALES[step % 2 :: 2]  # every other one in turn: half the time, and the same sum over two steps
    losses |= {"log_mel": training.log_mel(x, y, scales), "waveform_db": noise_to_signal_db(x, y)}
    weighed = [(losses["log_mel"], 1.0), (losses["waveform_db"], recipe.waveform)]
    if training.critic and training.quantizer.started:
        losses |= _judge(training.critic, x, y)
        weighed += [(losses["adversarial"], recipe.adversarial), (losses["features"], recipe.adversarial)]
    training.optimizer.zero_grad(set_to_none=True)
    y.backward(balanced_gradient(weighed, y))
    gradient = handed_over.grad
    assert gradient is not None
    if "commitment" in losses:
        (pull,) = torch.autograd.grad(losses["commitment"], [latents], retain_graph=True)
        # Its norm times √(B·D·T) / 2 is the root mean square of the distance. A pull of one strength at any distance
        # shrinks the latents for ever, a weaker one lets them grow for ever (docs/experiments.md).
        gradient = gradient + recipe.commitment * gradient.norm() * pull * latents.numel() ** 0.5 / 2
    latents.backward(gradient)
    training.optimizer.step()
    training.step += 1
    return {f"train/{name}": loss.item() for name, loss in losses.items()} | {
        "train/learning_rate": rate,
        "train/latent_deviation": latents.std().item(),
    }


def _judge(critic: Critic, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Move the critic to tell `x` from `y` `[B, N]`, then what it makes of `y`: the losses, by name."""
    own = discriminator_loss(critic.judge(x), critic.judge(y.detach()))
    critic.optimizer.zero_grad(set_to_none=True)
    own.backward()
    critic.optimizer.step()
    with torch.no_grad():
        real = critic.judge(x)
    made = critic.judge(y)
    return {"critic": own, "adversarial": adversarial_loss(made), "features": feature_loss(real, made)}


def _depth(recipe: Recipe, codebooks: int, step: int) -> int:
    """Through how many codebooks step `step` goes: a power of two below all of them as often as all, so that each
    bitrate is trained and the first codebooks carry what matters most."""
    powers = [2**i for i in range(codebooks.bit_length()) if 2**i < codebooks]
    random = np.random.default_rng((recipe.seed, _DEPTHS, step))
    return int(random.choice(powers)) if powers and random.random() < 0.5 else codebooks


@torch.no_grad()
def _sample_latents(recipe: Recipe, net: EncodecModel, store: AudioStore) -> torch.Tensor:
    """Latents of crops of their own, `[n, D]`: enough for k-means."""
    batches = math.ceil(_START_FRAMES_EACH * len(codebooks(net)[0]) / (recipe.batch * recipe.crop_frames))
    samples = recipe.crop_frames * HOP_SAMPLES
    crops = (random_crops(store, recipe.batch, samples, (recipe.seed, _START), i) for i in range(batches))
    return torch.cat([net.encoder(x[:, None].to(_device(net))).transpose(1, 2).flatten(0, 1) for x in crops])


def _device(net: EncodecModel) -> torch.device:
    return next(net.parameters()).device
