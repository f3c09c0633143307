"""Parts of codec training: distances, gradient balancing, the quantizer, crops, the discriminator, augmentation."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_gpt.manifests.statistics import code_usage
from whisper_gpt.pipeline.codec.architecture import CodecArchitecture, build_network, codebooks, seed_weights
from whisper_gpt.pipeline.codec.distances import LogMelDistance, noise_to_signal_db, si_sdr_db
from whisper_gpt.pipeline.codec.quantizer import ResidualQuantizer, code_counts
from whisper_gpt.pipeline.codec.training.augment import add_at_snr, augment, coloured_noise
from whisper_gpt.pipeline.codec.training.balance import balanced_gradient
from whisper_gpt.pipeline.codec.training.crops import build_store, random_crops
from whisper_gpt.pipeline.codec.training.discriminator import (
    MultiScaleDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from whisper_gpt.pipeline.codec.training.quantizer import QuantizerTrainer
from whisper_gpt.pipeline.errors import AudioError, PipelineError


@pytest.fixture
def clusters() -> torch.Tensor:
    """Vectors `[4000, 8]` around 48 cluster centres."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(48, 8, generator=generator) * 4
    return centres[torch.randint(48, (4000,), generator=generator)] + torch.randn(4000, 8, generator=generator) * 0.2


def small_net() -> tuple[torch.nn.Module, QuantizerTrainer]:
    torch.manual_seed(0)
    net = build_network(CodecArchitecture(width=4, latent=8, codebooks=3, codebook_size=64))
    seed_weights(net, seed=0)
    return net, QuantizerTrainer(net)


def test_distances_of_known_pairs() -> None:
    x = torch.randn(2, 12_000, generator=torch.Generator().manual_seed(0)) * 0.1
    log_mel = LogMelDistance()
    assert log_mel(x, x) == 0
    assert log_mel(x, x / 10).item() == pytest.approx(1, abs=0.02)  # a factor of ten, above the floor
    assert si_sdr_db(x, -3 * x).min() > 60  # neither scale nor sign counts
    noise = torch.randn(2, 12_000, generator=torch.Generator().manual_seed(1)) * 0.1
    assert si_sdr_db(x, x + noise).mean().item() == pytest.approx(0, abs=0.3)
    assert noise_to_signal_db(x, torch.zeros_like(x)).item() == pytest.approx(0, abs=0.1)
    assert noise_to_signal_db(x, x + noise / 10).item() == pytest.approx(-20, abs=0.3)


def test_silence_has_finite_distances_and_gradients() -> None:
    x, y = torch.zeros(1, 4096), torch.zeros(1, 4096, requires_grad=True)
    for loss in (LogMelDistance()(x, y), noise_to_signal_db(x, y)):
        assert torch.isfinite(loss) and torch.isfinite(torch.autograd.grad(loss, y)[0]).all()


def test_balanced_gradient_weights_each_loss() -> None:
    at = torch.tensor([3.0, 4.0], requires_grad=True)
    gradient = balanced_gradient([(1000 * at[0], 1.0), (1e-3 * at[1], 2.0)], at)
    assert torch.allclose(gradient, torch.tensor([1.0, 2.0]))


def test_k_means_finds_clusters_and_codebooks_reduce_error(clusters: torch.Tensor) -> None:
    net, trainer = small_net()
    assert not trainer.started
    trainer.start(net, clusters)
    assert trainer.started
    errors = []
    for depth in (1, 2, 3):
        quantizer = ResidualQuantizer.of(codebooks(net)[:depth])
        errors.append((quantizer.decode(quantizer.encode(clusters[None])) - clusters).square().mean().item())
    assert errors[0] < 0.5 and errors[1] < 0.9 * errors[0] and errors[2] < 0.9 * errors[1]


def test_training_revives_dead_codewords(clusters: torch.Tensor) -> None:
    net, trainer = small_net()
    for codebook in codebooks(net):
        codebook.fill_(100.0)  # far from all data: one codeword gets every vector, the others are dead
    trainer.sums.fill_(100.0)
    latents = clusters[:600].T[None]
    for _ in range(1000):
        trainer(net, latents, depth=3)
    codes = ResidualQuantizer.of(codebooks(net)).encode(latents.mT)
    assert all(use.share > 0.8 for use in code_usage(code_counts(codes[0].numpy(), 64)))


def test_quantizer_has_straight_through_and_commitment_grads(clusters: torch.Tensor) -> None:
    net, trainer = small_net()
    trainer.start(net, clusters)
    latents = clusters[:100].T[None].clone().requires_grad_()
    result = trainer(net, latents, depth=2)
    (straight,) = torch.autograd.grad(result.latents.sum(), latents, retain_graph=True)
    assert torch.equal(straight, torch.ones_like(latents))
    (pull,) = torch.autograd.grad(result.commitment, latents)
    with torch.no_grad():
        assert trainer(net, latents - 10 * pull, depth=2).commitment < result.commitment


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(1, 30), st.integers(0, 2**32))
def test_requantizing_with_one_codebook_is_idempotent(batch: int, frames: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    quantizer = ResidualQuantizer.of([torch.randn(16, 4, generator=generator)])
    codes = quantizer.encode(torch.randn(batch, frames, 4, generator=generator))
    assert codes.shape == (batch, 1, frames)
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


def test_crops_depend_only_on_seed_and_step(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    files = []
    for i, length in enumerate((50_000, 300, 24_000)):  # one shorter than a crop
        files.append(tmp_path / f"{i}.wav")
        soundfile.write(files[-1], random.uniform(-0.5, 0.5, length), 24_000)
    broken = tmp_path / "broken.flac"
    broken.write_bytes(b"fLaC")
    skipped_files: list[Path] = []

    def on_skip(file: Path, error: AudioError) -> None:
        skipped_files.append(file)

    store = build_store([*files, broken], tmp_path / "audio" / "train", 2, on_skip)
    assert skipped_files == [broken] and len(store.names) == 3
    assert np.diff(store.bounds).tolist() == [50_000, 300, 24_000]
    crops = random_crops(store, 64, 1600, seed=(1,), step=5)
    assert crops.shape == (64, 1600) and crops.abs().max() <= 1
    reopened = build_store([*files, broken], tmp_path / "audio" / "train", 2, on_skip)
    assert skipped_files == [broken]  # decoded once
    assert torch.equal(crops, random_crops(reopened, 64, 1600, seed=(1,), step=5))
    assert not torch.equal(crops, random_crops(reopened, 64, 1600, seed=(1,), step=6))
    with pytest.raises(PipelineError, match="none of its 1"):
        build_store([broken], tmp_path / "audio" / "other", 2, on_skip)


def test_discriminator_learns_and_can_be_fooled() -> None:
    """It learns to tell tones from noise; a signal moved along its gradient is judged more real."""
    torch.manual_seed(0)
    discriminator = MultiScaleDiscriminator()
    optimizer = torch.optim.AdamW(discriminator.parameters(), 1e-3, betas=(0.8, 0.99))
    real = torch.sin(torch.arange(8000) * torch.linspace(0.05, 0.5, 4)[:, None]) * 0.3
    fake = torch.randn(4, 8000, generator=torch.Generator().manual_seed(1)) * 0.2
    losses = []
    for _ in range(40):
        loss = discriminator_loss(discriminator(real), discriminator(fake))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    moved = fake.clone().requires_grad_()
    before = adversarial_loss(discriminator(moved)) + feature_loss(discriminator(real), discriminator(moved))
    (gradient,) = torch.autograd.grad(before, moved)
    better = moved.detach() - 0.5 * gradient / gradient.norm()
    assert adversarial_loss(discriminator(better)) + feature_loss(discriminator(real), discriminator(better)) < before
    assert feature_loss(discriminator(real), discriminator(real)) == 0


def test_codebooks_are_trained_after_moving_the_network(clusters: torch.Tensor) -> None:
    """Moving a network to another device or dtype replaces its tensors; the new ones must be trained."""
    net, trainer = small_net()
    trainer.start(net, clusters)
    net.double().float()
    before = [codebook.clone() for codebook in codebooks(net)]
    trainer(net, clusters[:600].T[None] + 1, depth=3)
    assert all(not torch.equal(codebook, old) for codebook, old in zip(codebooks(net), before, strict=True))


def test_augmented_crops_are_finite_bounded_and_mostly_clean() -> None:
    random = np.random.default_rng(0)
    crop = (np.sin(np.arange(8000) * 0.05) * 0.3).astype(np.float32)
    results = [augment(crop, lambda: np.zeros(8000, np.float32), random) for _ in range(200)]
    assert all(r.shape == crop.shape and r.dtype == np.float32 and np.abs(r).max() <= 1 for r in results)
    cosine = [abs(r @ crop) / np.linalg.norm(r) / np.linalg.norm(crop) for r in results]
    assert 0.5 < np.mean(np.array(cosine) > 0.999) < 0.9  # gain alone does not change the shape of the waveform
    assert np.isfinite(augment(np.zeros(8000, np.float32), lambda: crop, random)).all()


def test_without_degradation_only_level_and_equaliser_change() -> None:
    """The spectrum of a sine keeps one line: no noise, no other sound, no clipping's harmonics."""
    random = np.random.default_rng(0)
    crop = (np.sin(2 * np.pi * 100 / 8000 * np.arange(8000)) * 0.1).astype(np.float32)
    for _ in range(200):
        power = np.square(np.abs(np.fft.rfft(augment(crop, lambda: random.standard_normal(8000), random, degraded=0))))
        assert power[95:106].sum() > 0.99 * power.sum()


def test_mixing_noise_gives_the_requested_snr() -> None:
    random = np.random.default_rng(1)
    signal = random.standard_normal(20_000).astype(np.float32)
    noise = coloured_noise(20_000, random)
    added = add_at_snr(signal, noise, snr_db=12.0) - signal
    assert 10 * np.log10(np.square(signal).mean() / np.square(added).mean()) == pytest.approx(12.0, abs=0.01)
