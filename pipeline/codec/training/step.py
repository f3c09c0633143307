"""One step of a codec's training: crops in, losses out, network and codebooks moved."""

import copy
import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch

from whisper_gpt.pipeline.codec.architecture import codebooks
from whisper_gpt.pipeline.codec.distances import SCALES, LogMelDistance, noise_to_signal_db
from whisper_gpt.pipeline.codec.encodec_import import EncodecModel
from whisper_gpt.pipeline.codec.fingerprint import Precision
from whisper_gpt.pipeline.codec.training.balance import balanced_gradient
from whisper_gpt.pipeline.codec.training.crops import AudioStore, random_crops
from whisper_gpt.pipeline.codec.training.discriminator import (
    MultiScaleDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from whisper_gpt.pipeline.codec.training.quantizer import QuantizerTrainer
from whisper_gpt.pipeline.codec.weights import codec_tensors
from whisper_gpt.pipeline.frames import HOP_SAMPLES

# k-means of the codebooks' start sees this many frames for each of its entries.
_START_FRAMES_EACH = 16
_RISE_STEPS = 50
# Feature matching against the adversarial loss, as in HiFi-GAN (Kong et al. 2020, arXiv 2010.05646, section 2.3).
_FEATURES_WEIGHT = 2.0
_AVERAGE_DECAY = 0.999
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
    adversarial_from: float
    precision: Precision
    seed: int


@dataclass
class Training:
    """The parts that change as a run goes on."""

    net: EncodecModel
    quantizer: QuantizerTrainer
    optimizer: torch.optim.Optimizer
    log_mel: LogMelDistance
    critic: "Critic | None"
    average: dict[str, torch.Tensor]
    step: int = 0
    elapsed_s: float = 0.0

    def averaged(self) -> EncodecModel:
        """Return a copy of the network, on the CPU, with the running average of its weights and codebooks."""
        net = copy.deepcopy(self.net).cpu().eval()
        with torch.no_grad():
            for name, tensor in codec_tensors(net).items():
                tensor.copy_(self.average[name])
        return net


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
    average = {name: tensor.clone() for name, tensor in codec_tensors(net).items()}
    return Training(net.train(), quantizer, optimizer, LogMelDistance().to(_device(net)), critic, average)


def train_step(recipe: Recipe, training: Training, store: AudioStore, done: float) -> dict[str, float]:
    """One optimizer step, after the share `done` of the run → its losses, by name."""
    net, step = training.net, training.step
    crop = recipe.crop_frames * HOP_SAMPLES
    if done >= recipe.unquantized and not training.quantizer.started:
        training.quantizer.start(net, _sample_latents(recipe, net, store))
        for name, tensor in codec_tensors(net).items():
            training.average[name].copy_(tensor)  # the codebooks that were there before mean nothing
    x = random_crops(store, recipe.batch, crop, (recipe.seed, _CROPS), step).to(_device(net))  # [B, N]
    rate = recipe.learning_rate * min(1.0, (step + 1) / _RISE_STEPS) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    optimizers = [training.optimizer, *([training.critic.optimizer] if training.critic else [])]
    for group in itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
        group["lr"] = rate

    with _autocast(net, recipe):
        latents = net.encoder(x[:, None]).float()  # [B, D, T]
    losses: dict[str, torch.Tensor] = {}
    quantized = latents
    if training.quantizer.started:
        result = training.quantizer(net, latents, _depth(recipe, len(training.quantizer.counts), step))
        quantized, losses["commitment"] = result.latents, result.commitment
    # The decoder's gradient ends here, so that the commitment's can be weighed against it.
    handed_over = quantized.detach().requires_grad_()
    with _autocast(net, recipe):
        y = net.decoder(handed_over)[:, 0].float()  # [B, N]
    scales = SCALES[step % 2 :: 2]  # every other one in turn: half the time, and the same sum over two steps
    losses |= {"log_mel": training.log_mel(x, y, scales), "waveform_db": noise_to_signal_db(x, y)}
    weighed = [(losses["log_mel"], 1.0), (losses["waveform_db"], recipe.waveform)]
    if training.critic and done >= max(recipe.adversarial_from, recipe.unquantized):
        scale = [step % len(training.critic.judge.scales)]  # each in turn: a third of the time
        with _autocast(net, recipe):
            real, decoded = training.critic.judge(x, scale), training.critic.judge(y, scale)
        losses["critic"] = discriminator_loss(real, decoded)
        losses |= {"adversarial": adversarial_loss(decoded), "features": feature_loss(real, decoded)}
        weighed += [(losses["adversarial"] + _FEATURES_WEIGHT * losses["features"], recipe.adversarial)]
    training.optimizer.zero_grad(set_to_none=True)
    gradient_of_audio = balanced_gradient(weighed, y)
    if "critic" in losses:
        _train_critic(training.critic, losses["critic"])
    y.backward(gradient_of_audio)
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
    _move_average(training)
    return {f"train/{name}": loss.item() for name, loss in losses.items()} | {
        "train/learning_rate": rate,
        "train/latent_deviation": latents.std().item(),
    }


def _train_critic(critic: Critic | None, loss: torch.Tensor) -> None:
    """Move the critic's weights down the gradient of `loss`, leaving the codec's gradients as they are."""
    assert critic is not None
    parameters = list(critic.judge.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        parameter.grad = gradient
    critic.optimizer.step()


@torch.no_grad()
def _move_average(training: Training) -> None:
    """Move the running average of weights and codebooks towards the present ones; quickly in the first steps."""
    decay = min(_AVERAGE_DECAY, (1 + training.step) / (10 + training.step))
    present = codec_tensors(training.net)
    torch._foreach_lerp_(list(training.average.values()), [present[name] for name in training.average], 1 - decay)


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


def _autocast(net: EncodecModel, recipe: Recipe) -> torch.autocast:
    return torch.autocast(_device(net).type, torch.bfloat16, enabled=recipe.precision == "bf16")


def _device(net: EncodecModel) -> torch.device:
    return next(net.parameters()).device
