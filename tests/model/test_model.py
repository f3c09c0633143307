"""The model: parameter counts, causality, KV cache, packing, losses, saving and loading."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.helpers import NEEDS_COMPILER, without_zero_weights
from whisper_gpt.model.cache import empty_cache
from whisper_gpt.model.checkpoint import save_model
from whisper_gpt.model.config import PRESETS, ModelConfig, fit_to_data
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.hybrid import HybridLM, Prediction
from whisper_gpt.model.layers import ReLUSquared, apply_rope, norm, rope_table
from whisper_gpt.model.objective import Losses, laplace_nats, losses, training_losses

SMALL = ModelConfig("small", vocab=32, context=40, width=32, layers=2, heads=2, mel_bands=8, mel_width=16, mel_heads=2)

SHAPES = {
    "hybrid": SMALL,
    "token-only": replace(SMALL, mel_bands=0),
    "two codebooks": replace(SMALL, mel_bands=0, input_codebooks=2),
    "mel alone": replace(SMALL, input_codebooks=0),
    "narrow": replace(SMALL, fusion_width=6),
}
every_shape = pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)


def random_model(config: ModelConfig, seed: int = 0) -> HybridLM:
    """A model with no zero weights: fresh models zero the output projections of their branches."""
    torch.manual_seed(seed)
    return without_zero_weights(HybridLM(config).eval())


def random_frames(
    config: ModelConfig, batch: int = 2, length: int = 40, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, config.vocab, (batch, 2, length), generator=generator)
    return codes, torch.randn(batch, length, config.mel_bands, generator=generator)


@pytest.mark.parametrize(("name", "millions"), [("hybrid-4m", 4.0), ("gpt-4m", 3.7), ("gpt-40m", 40.0)])
def test_parameter_counts(name: str, millions: float) -> None:
    assert HybridLM(PRESETS[name]).parameter_count() / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize("t", [0, 1, 17, 38])
@every_shape
def test_output_t_depends_only_on_earlier_frames(config: ModelConfig, t: int) -> None:
    model = random_model(config)
    codes, mel = random_frames(config)
    other_codes, other_mel = codes.clone(), mel.clone()
    other_codes[..., t:] = (other_codes[..., t:] + 1) % config.vocab
    other_mel[:, t:] += 3.0
    before = model(codes, mel if config.hybrid else None)
    after = model(other_codes, other_mel if config.hybrid else None)
    assert torch.equal(before.logits[:, : t + 1], after.logits[:, : t + 1])
    assert not torch.equal(before.logits[:, t + 1], after.logits[:, t + 1])
    if config.hybrid:
        assert torch.equal(before.mel_location[:, : t + 1], after.mel_location[:, : t + 1])


def test_output_depends_on_the_previous_mel_frame() -> None:
    model = random_model(SMALL)
    codes, mel = random_frames(SMALL)
    other_mel = mel.clone()
    other_mel[:, 9] += 3.0
    assert not torch.equal(model(codes, mel).logits[:, 10], model(codes, other_mel).logits[:, 10])


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, mel_bands=0)], ids=["hybrid", "token-only"])
@pytest.mark.parametrize("prompt", [1, 7])
@torch.no_grad()
def test_cached_logits_match_uncached(config: ModelConfig, prompt: int) -> None:
    model = random_model(config)
    codes, mel = random_frames(config, length=30)
    mel_input = mel if config.hybrid else None
    whole = model(codes, mel_input)
    tokens = torch.nn.functional.pad(codes[:, :1, :-1], (1, 0), value=model.begin_token)
    mel_mask = tokens[:, 0] != model.begin_token
    shifted = torch.nn.functional.pad(mel[:, :-1], (0, 0, 1, 0)) if config.hybrid else None

    def cached_logits(a: int, b: int) -> torch.Tensor:
        mel_part = shifted[:, a:b] if shifted is not None else None
        return model.predict_next(tokens[..., a:b], mel_part, mel_mask[:, a:b], cache).logits

    cache = empty_cache(config, batch=2)
    logits = [cached_logits(0, prompt), *(cached_logits(t, t + 1) for t in range(prompt, 30))]
    assert torch.allclose(torch.cat(logits, dim=1), whole.logits, atol=1e-4)
    assert cache.position == 30


def test_cache_accepts_several_inputs_only_when_empty() -> None:
    model = random_model(replace(SMALL, mel_bands=0))
    cache, tokens = empty_cache(model.config, batch=1), torch.zeros(1, 1, 2, dtype=torch.long)
    model.predict_next(tokens, None, tokens[:, 0] == 0, cache)
    with pytest.raises(ValueError, match="cache"):
        model.predict_next(tokens, None, tokens[:, 0] == 0, cache)


def test_right_padding_does_not_change_the_loss() -> None:
    model = random_model(SMALL)
    codes, mel = random_frames(SMALL)
    mask = torch.ones_like(codes[:, 0], dtype=torch.bool)
    mask[1, 25:] = False
    other_codes = codes.clone()
    other_codes[1, :, 25:] = 5
    losses, other_losses = (training_losses(model, c, mel, mask) for c in (codes, other_codes))
    assert torch.equal(losses.total, other_losses.total)


PACKED = torch.tensor([[0] * 13 + [1] * 1 + [2] * 26, [0] * 30 + [1] * 10])


@every_shape
@torch.no_grad()
def test_packed_piece_matches_the_piece_alone(config: ModelConfig) -> None:
    model = random_model(config)
    codes, mel = random_frames(config)
    packed = model(codes, mel if config.hybrid else None, doc_ids=PACKED).logits
    for row in range(2):
        for piece in PACKED[row].unique():
            in_piece = PACKED[row] == piece
            alone = model(codes[row, :, in_piece][None], mel[row, in_piece][None] if config.hybrid else None).logits[0]
            assert torch.allclose(packed[row, in_piece], alone, atol=1e-5)


@every_shape
@torch.no_grad()
def test_packed_pieces_do_not_leak_into_each_other(config: ModelConfig) -> None:
    model = random_model(config)
    codes, mel = random_frames(config)
    before = model(codes, mel if config.hybrid else None, doc_ids=PACKED)
    first = PACKED == 0
    other_codes = torch.where(first[:, None], (codes + 1) % config.vocab, codes)
    other_mel = torch.where(first[..., None], mel + 3.0, mel)
    after = model(other_codes, other_mel if config.hybrid else None, doc_ids=PACKED)
    assert torch.equal(before.logits[~first], after.logits[~first])
    assert not torch.equal(before.logits[first], after.logits[first])


def test_each_shape_reads_only_its_own_inputs() -> None:
    """The second codebook only affects models that read two; tokens do not affect the mel-only model."""
    for name, config in SHAPES.items():
        model = random_model(config)
        codes, mel = random_frames(config)
        mel_input = mel if config.hybrid else None
        for codebook in range(2):
            other_codes = codes.clone()
            other_codes[:, codebook, 3] = (other_codes[:, codebook, 3] + 1) % config.vocab
            same = torch.equal(model(codes, mel_input).logits, model(other_codes, mel_input).logits)
            assert same == (codebook >= config.input_codebooks), name
    with pytest.raises(ModelError, match="no mel"):
        replace(SMALL, mel_bands=0, input_codebooks=0)


def test_missing_mel_equals_mel_dropout() -> None:
    model = random_model(SMALL)
    codes, mel = random_frames(SMALL)
    logits = model(codes, mel, torch.tensor([False, True])).logits
    assert torch.allclose(logits[0], model(codes, None).logits[0], atol=1e-6)
    assert torch.allclose(logits[1], model(codes, mel).logits[1], atol=1e-6)


def test_mel_noise_is_added_in_training_mode_only() -> None:
    model = random_model(SMALL)
    codes, mel = random_frames(SMALL)
    mask = torch.ones_like(codes[:, 0], dtype=torch.bool)
    assert training_losses(model, codes, mel, mask).total == training_losses(model, codes, mel, mask).total
    model.train()
    assert training_losses(model, codes, mel, mask).total != training_losses(model, codes, mel, mask).total


def test_initial_loss_is_that_of_a_uniform_guess() -> None:
    torch.manual_seed(0)
    model = HybridLM(PRESETS["hybrid-4m"])
    codes, mel = random_frames(model.config)
    first = training_losses(model, codes, mel, torch.ones_like(codes[:, 0], dtype=torch.bool))
    assert (first.token_nats / first.frames).item() == pytest.approx(6.931, abs=0.05)


def test_laplace_nats_integrate_to_one() -> None:
    x = torch.linspace(-40, 40, 80_001)
    density = torch.exp(-laplace_nats(x, torch.tensor(1.5), torch.tensor(0.7)))
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-2, 1.0, 30.0])
def test_norm_matches_torch_rms_norm(dtype: torch.dtype, size: float) -> None:
    """Values and gradients match those of torch's RMSNorm in float64."""
    x = (size * torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(0))).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    weights = torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(1))
    y, expected = norm(x), torch.nn.functional.rms_norm(exact, (64,), eps=torch.finfo(torch.float32).eps)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    assert y.dtype == dtype and torch.allclose(y.double(), expected, rtol=tolerance, atol=tolerance)
    assert x.grad is not None and exact.grad is not None
    assert torch.allclose(x.grad.double() * size, exact.grad * size, rtol=tolerance, atol=2 * tolerance)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=[pytest.mark.slow, NEEDS_COMPILER])])
def test_norm_gradient_is_float32_under_autocast(compiled: bool) -> None:
    """A gradient nearly parallel to y almost cancels: in bfloat16 the result would be 6.7 % off."""
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    direction = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    exact = x.double().requires_grad_()
    y = torch.nn.functional.rms_norm(exact, (256,), eps=torch.finfo(torch.float32).eps)
    gradient = y.detach().float() + 0.01 * direction
    y.backward(gradient.double())
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (torch.compile(norm) if compiled else norm)(x).backward(gradient)
    assert x.grad is not None and exact.grad is not None
    assert (x.grad - exact.grad).norm() / exact.grad.norm() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_norm_keeps_its_input_dtype_on_every_device(device: str, dtype: torch.dtype) -> None:
    """Fake tensors tell the dtypes that a GPU would return, without a GPU."""
    before = torch.is_autocast_enabled(device)
    torch.set_autocast_enabled(device, True)
    try:
        with FakeTensorMode():
            assert norm(torch.empty(2, 8, dtype=dtype, device=device)).dtype == dtype
    finally:
        torch.set_autocast_enabled(device, before)


def test_losses_of_bfloat16_predictions_use_float32() -> None:
    """As on a GPU: logarithms and exponentials in bfloat16 have three significant digits."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 9, 16), (2, 9, 32), (2, 9, 8), (2, 9, 8)]
    rough = Prediction(*(torch.randn(shape, generator=generator).bfloat16() for shape in shapes))
    exact = Prediction(*(getattr(rough, field.name).float() for field in fields(Prediction)))
    codes, mel = torch.randint(32, (2, 9), generator=generator), torch.randn(2, 9, 8, generator=generator)
    mask = torch.arange(9).expand(2, 9) < 7
    with torch.autocast("cpu", torch.bfloat16):
        rough_losses = losses(rough, codes, mel, mask, 0.1)
    exact_losses = losses(exact, codes, mel, mask, 0.1)
    assert all(
        torch.equal(getattr(rough_losses, field.name), getattr(exact_losses, field.name)) for field in fields(Losses)
    )


def test_relu_squared_gradient_matches_its_formula() -> None:
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ReLUSquared.apply, (x,))
    assert torch.equal(ReLUSquared.apply(x), x.clamp_min(0).square())


def test_rope_depends_only_on_relative_position() -> None:
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(i: int, j: int) -> float:
        rotated = [apply_rope(x, rope_table(p, p + 1, 16, x.device)) for x, p in ((q, i), (k, j))]
        return (rotated[0] * rotated[1]).sum().item()

    assert product(3, 1) == pytest.approx(product(103, 101), abs=1e-4)
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-4)


def test_overfits_one_batch() -> None:
    """On one batch the hybrid gets below 0.1 nats per token, and its mel loss falls as well."""
    torch.manual_seed(0)
    model = HybridLM(replace(SMALL, width=64, layers=2, heads=4)).train()
    codes, mel = random_frames(model.config, batch=4)
    mask = torch.ones_like(codes[:, 0], dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    first = training_losses(model, codes, mel, mask)
    for _ in range(250):
        last = training_losses(model, codes, mel, mask)
        optimizer.zero_grad()
        (last.total / last.frames).backward()
        optimizer.step()
    assert last.token_nats / last.frames < 0.1
    assert (last.mel_nats - first.mel_nats) / last.frames < -0.3


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    model = random_model(SMALL)
    model.mel_encoder.set_statistics(torch.arange(8.0), torch.arange(8.0))
    save_model(model, tmp_path)
    loaded = HybridLM.from_pretrained(tmp_path)
    assert loaded.config == model.config
    # The standard deviation is clamped so that a silent band is not amplified.
    assert loaded.mel_encoder.mel_std.min() == pytest.approx(0.1)
    codes, mel = random_frames(SMALL)
    assert torch.equal(loaded.eval()(codes, mel).logits, model(codes, mel).logits)


def test_mismatched_or_damaged_checkpoints_are_refused(tmp_path: Path) -> None:
    save_model(random_model(SMALL), tmp_path)
    config = tmp_path / "config.json"
    original = config.read_text()
    config.write_text(original.replace('"layers": 2', '"layers": 3'))
    with pytest.raises(ModelError, match=r"blocks\.2\.attention\.project\.weight is absent"):
        HybridLM.from_pretrained(tmp_path)
    config.write_text(original.replace('"width": 32', '"width": 64'))
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        HybridLM.from_pretrained(tmp_path)
    config.write_text('{"nonsense": 1}')
    with pytest.raises(ModelError, match="not a model configuration"):
        HybridLM.from_pretrained(tmp_path)
    config.write_text(original, encoding="utf-8-sig")  # as some editors save it
    assert HybridLM.from_pretrained(tmp_path).config == SMALL
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match="cannot be read"):
        HybridLM.from_pretrained(tmp_path)


def test_hugging_face_save_and_load_round_trip(tmp_path: Path) -> None:
    model = random_model(SMALL)
    model.save_pretrained(tmp_path / "saved")
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "saved").iterdir()}
    loaded = HybridLM.from_pretrained(tmp_path / "saved")
    assert loaded.config == SMALL and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    with pytest.raises(ModelError, match="neither a folder nor a model on the hub"):
        HybridLM.from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)
    with pytest.raises(ModelError, match="neither a folder nor a model on the hub"):
        HybridLM.from_pretrained(tmp_path / "absent")


def test_presets_adopt_the_sizes_of_the_data() -> None:
    data = {"vocab": 512, "context": 100, "mel_bands": 80}
    config = fit_to_data(PRESETS["hybrid-4m"], **data)
    assert (config.vocab, config.context, config.mel_bands) == (512, 100, 80)
    assert fit_to_data(PRESETS["gpt-4m"], **data).mel_bands == 0
