"""One training step of a codec: draw crops, compute the losses, update network and codebooks."""

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

# Frames per codebook entry for the k-means that initialises the codebooks.
_START_FRAMES_PER_ENTRY = 16
_WARMUP_STEPS = 50
# Share of the run that trains without the quantizer, at the start.
_UNQUANTIZED = 0.03
# Weight of the commitment loss: at a distance of 1 from its codeword, a latent gets this share of the decoder's
# gradient.
_COMMITMENT = 0.5
# Weight of feature matching relative to the adversarial loss, as in HiFi-GAN (Kong et al. 2020, arXiv 2010.05646,
# section 2.3).
_FEATURES_WEIGHT = 2.0
_AVERAGE_DECAY = 0.999
# Seeds by purpose, so that different draws are independent.
_CROPS, _START, _DEPTHS = range(3)


@dataclass(frozen=True)
class Recipe:
    """The options that a step depends on; see `jobs/train_codec.py` for their meaning."""

    batch: int
    crop_frames: int
    learning_rate: float
    waveform: float
    adversarial: float
    adversarial_from: float
    degraded: float
    precision: Precision
    seed: int


@dataclass
class Training:
    """The mutable state of a run."""

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
    """The discriminator and its optimizer."""

    judge: MultiScaleDiscriminator
    optimizer: torch.optim.Optimizer


def begin(net: EncodecModel, recipe: Recipe) -> Training:
    """Return the state of a run before its first step, on the device of `net`."""
    quantizer = QuantizerTrainer(net).to(_device(net))
    optimizer = torch.optim.AdamW(net.parameters(), recipe.learning_rate, betas=(0.8, 0.99), weight_decay=0.0)
    critic = None
    if recipe.adversarial:
        judge = MultiScaleDiscriminator().to(_device(net))
        critic = Critic(judge, torch.optim.AdamW(judge.parameters(), recipe.learning_rate, betas=(0.8, 0.99)))
    average = {name: tensor.clone() for name, tensor in codec_tensors(net).items()}
    return Training(net.train(), quantizer, optimizer, LogMelDistance().to(_device(net)), critic, average)


def train_step(recipe: Recipe, training: Training, store: AudioStore, done: float) -> dict[str, float]:
    """Run one optimizer step, after the fraction `done` of the run; return its losses by name."""
    net, step = training.net, training.step
    crop = recipe.crop_frames * HOP_SAMPLES
    if done >= _UNQUANTIZED and not training.quantizer.started:
        training.quantizer.start(net, _sample_latents(recipe, net, store))
        for name, tensor in codec_tensors(net).items():
            training.average[name].copy_(tensor)  # codebooks before `start` are meaningless
    x = random_crops(store, recipe.batch, crop, (recipe.seed, _CROPS), step, recipe.degraded).to(_device(net))  # [B, N]
    rate = recipe.learning_rate * min(1.0, (step + 1) / _WARMUP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
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
    # Detached, so that the commitment's gradient can be weighted relative to the decoder's.
    decoder_input = quantized.detach().requires_grad_()
    with _autocast(net, recipe):
        y = net.decoder(decoder_input)[:, 0].float()  # [B, N]
    scales = SCALES[step % 2 :: 2]  # alternating halves: half the time, and the same sum over two steps
    losses |= {"log_mel": training.log_mel(x, y, scales), "waveform_db": noise_to_signal_db(x, y)}
    weighted = [(losses["log_mel"], 1.0), (losses["waveform_db"], recipe.waveform)]
    if training.critic and done >= max(recipe.adversarial_from, _UNQUANTIZED):
        scale = [step % len(training.critic.judge.scales)]  # one per step: a third of the time
        with _autocast(net, recipe):
            real, decoded = training.critic.judge(x, scale), training.critic.judge(y, scale)
        losses["critic"] = discriminator_loss(real, decoded)
        losses |= {"adversarial": adversarial_loss(decoded), "features": feature_loss(real, decoded)}
        weighted += [(losses["adversarial"] + _FEATURES_WEIGHT * losses["features"], recipe.adversarial)]
    training.optimizer.zero_grad(set_to_none=True)
    audio_gradient = balanced_gradient(weighted, y)
    if "critic" in losses:
        _train_critic(training.critic, losses["critic"])
    y.backward(audio_gradient)
    gradient = decoder_input.grad
    assert gradient is not None
    if "commitment" in losses:
        (commitment_gradient,) = torch.autograd.grad(losses["commitment"], [latents], retain_graph=True)
        # Its norm times √(B·D·T) / 2 is the root mean square of the distance. A commitment gradient of constant norm
        # shrinks the latents without limit, a weaker one lets them grow without limit (docs/experiments.md).
        gradient = gradient + _COMMITMENT * gradient.norm() * commitment_gradient * latents.numel() ** 0.5 / 2
    latents.backward(gradient)
    training.optimizer.step()
    training.step += 1
    _move_average(training)
    return {f"train/{name}": loss.item() for name, loss in losses.items()} | {
        "train/learning_rate": rate,
        "train/latent_deviation": latents.std().item(),
    }


def _train_critic(critic: Critic | None, loss: torch.Tensor) -> None:
    """Update the critic by the gradient of `loss`; the codec's gradients stay unchanged."""
    assert critic is not None
    parameters = list(critic.judge.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
        parameter.grad = gradient
    critic.optimizer.step()


@torch.no_grad()
def _move_average(training: Training) -> None:
    """Update the running average of weights and codebooks, with less decay in the first steps."""
    decay = min(_AVERAGE_DECAY, (1 + training.step) / (10 + training.step))
    current = codec_tensors(training.net)
    torch._foreach_lerp_(list(training.average.values()), [current[name] for name in training.average], 1 - decay)


def _depth(recipe: Recipe, codebooks: int, step: int) -> int:
    """Return how many codebooks step `step` uses: half the time all of them, otherwise a random power of two below.

    So each bitrate is trained, and the first codebooks carry the most important information.
    """
    powers = [2**i for i in range(codebooks.bit_length()) if 2**i < codebooks]
    random = np.random.default_rng((recipe.seed, _DEPTHS, step))
    return int(random.choice(powers)) if powers and random.random() < 0.5 else codebooks


@torch.no_grad()
def _sample_latents(recipe: Recipe, net: EncodecModel, store: AudioStore) -> torch.Tensor:
    """Return latents `[n, D]` of separately drawn crops, enough for k-means."""
    batches = math.ceil(_START_FRAMES_PER_ENTRY * len(codebooks(net)[0]) / (recipe.batch * recipe.crop_frames))
    samples = recipe.crop_frames * HOP_SAMPLES
    seed = (recipe.seed, _START)
    crops = (random_crops(store, recipe.batch, samples, seed, i, recipe.degraded) for i in range(batches))
    return torch.cat([net.encoder(x[:, None].to(_device(net))).transpose(1, 2).flatten(0, 1) for x in crops])


def _autocast(net: EncodecModel, recipe: Recipe) -> torch.autocast:
    return torch.autocast(_device(net).type, torch.bfloat16, enabled=recipe.precision == "bf16")


def _device(net: EncodecModel) -> torch.device:
    return next(net.parameters()).device
