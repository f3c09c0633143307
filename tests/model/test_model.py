"""The model: sizes, causality to the bit, cache equals no cache, both heads learn."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.helpers import NEEDS_COMPILER
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


def scrambled(config: ModelConfig, seed: int = 0) -> HybridLM:
    """A model none of whose weights is zero (fresh ones pass nothing through their branches)."""
    torch.manual_seed(seed)
    model = HybridLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def frames(config: ModelConfig, batch: int = 2, length: int = 40, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, config.vocab, (batch, 2, length), generator=generator)
    return codes, torch.randn(batch, length, config.mel_bands, generator=generator)


@pytest.mark.parametrize(("name", "millions"), [("hybrid-4m", 4.0), ("gpt-4m", 3.7), ("gpt-40m", 40.0)])
def test_parameter_counts(name: str, millions: float) -> None:
    assert HybridLM(PRESETS[name]).parameter_count() / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize("t", [0, 1, 17, 38])
@every_shape
def test_output_t_depends_on_frames_before_t_only(config: ModelConfig, t: int) -> None:
    model = scrambled(config)
    codes, mel = frames(config)
    other_codes, other_mel = codes.clone(), mel.clone()
    other_codes[..., t:] = (other_codes[..., t:] + 1) % config.vocab
    other_mel[:, t:] += 3.0
    before = model(codes, mel if config.hybrid else None)
    after = model(other_codes, other_mel if config.hybrid else None)
    assert torch.equal(before.logits[:, : t + 1], after.logits[:, : t + 1])
    assert not torch.equal(before.logits[:, t + 1], after.logits[:, t + 1])
    if config.hybrid:
        assert torch.equal(before.mel_location[:, : t + 1], after.mel_location[:, : t + 1])


def test_output_t_depends_on_the_mel_of_frame_t_minus_1() -> None:
    model = scrambled(SMALL)
    codes, mel = frames(SMALL)
    other = mel.clone()
    other[:, 9] += 3.0
    assert not torch.equal(model(codes, mel).logits[:, 10], model(codes, other).logits[:, 10])


@pytest.mark.parametrize("config", [SMALL, replace(SMALL, mel_bands=0)], ids=["hybrid", "token-only"])
@pytest.mark.parametrize("prompt", [1, 7])
@torch.no_grad()
def test_cached_predictions_equal_uncached_ones(config: ModelConfig, prompt: int) -> None:
    model = scrambled(config)
    codes, mel = frames(config, length=30)
    heard = mel if config.hybrid else None
    whole = model(codes, heard)
    tokens = torch.nn.functional.pad(codes[:, :1, :-1], (1, 0), value=model.begin_token)
    present = tokens[:, 0] != model.begin_token
    shifted = torch.nn.functional.pad(mel[:, :-1], (0, 0, 1, 0)) if config.hybrid else None

    def part(a: int, b: int) -> torch.Tensor:
        mel_part = shifted[:, a:b] if shifted is not None else None
        return model.predict_next(tokens[..., a:b], mel_part, present[:, a:b], cache).logits

    cache = empty_cache(config, batch=2)
    logits = [part(0, prompt), *(part(t, t + 1) for t in range(prompt, 30))]
    assert torch.allclose(torch.cat(logits, dim=1), whole.logits, atol=1e-4)
    assert cache.position == 30


def test_a_cache_takes_several_inputs_at_its_start_only() -> None:
    model = scrambled(replace(SMALL, mel_bands=0))
    cache, tokens = empty_cache(model.config, batch=1), torch.zeros(1, 1, 2, dtype=torch.long)
    model.predict_next(tokens, None, tokens[:, 0] == 0, cache)
    with pytest.raises(ValueError, match="cache"):
        model.predict_next(tokens, None, tokens[:, 0] == 0, cache)


def test_padding_on_the_right_changes_nothing() -> None:
    model = scrambled(SMALL)
    codes, mel = frames(SMALL)
    mask = torch.ones_like(codes[:, 0], dtype=torch.bool)
    mask[1, 25:] = False
    other = codes.clone()
    other[1, :, 25:] = 5
    one, two = (training_losses(model, c, mel, mask) for c in (codes, other))
    assert torch.equal(one.total, two.total)


PACKED = torch.tensor([[0] * 13 + [1] * 1 + [2] * 26, [0] * 30 + [1] * 10])


@every_shape
@torch.no_grad()
def test_packed_pieces_are_predicted_as_if_alone(config: ModelConfig) -> None:
    model = scrambled(config)
    codes, mel = frames(config)
    packed = model(codes, mel if config.hybrid else None, doc_ids=PACKED).logits
    for row in range(2):
        for piece in PACKED[row].unique():
            own = PACKED[row] == piece
            alone = model(codes[row, :, own][None], mel[row, own][None] if config.hybrid else None).logits[0]
            assert torch.allclose(packed[row, own], alone, atol=1e-5)


@every_shape
@torch.no_grad()
def test_packed_pieces_are_independent(config: ModelConfig) -> None:
    model = scrambled(config)
    codes, mel = frames(config)
    before = model(codes, mel if config.hybrid else None, doc_ids=PACKED)
    first = PACKED == 0
    other_codes = torch.where(first[:, None], (codes + 1) % config.vocab, codes)
    other_mel = torch.where(first[..., None], mel + 3.0, mel)
    after = model(other_codes, other_mel if config.hybrid else None, doc_ids=PACKED)
    assert torch.equal(before.logits[~first], after.logits[~first])
    assert not torch.equal(before.logits[first], after.logits[first])


def test_each_shape_reads_its_inputs_only() -> None:
    """The second codebook changes what reads two, and nothing else; tokens change nothing if only the mel is read."""
    for name, config in SHAPES.items():
        model = scrambled(config)
        codes, mel = frames(config)
        heard = mel if config.hybrid else None
        for book in range(2):
            other = codes.clone()
            other[:, book, 3] = (other[:, book, 3] + 1) % config.vocab
            same = torch.equal(model(codes, heard).logits, model(other, heard).logits)
            assert same == (book >= config.input_codebooks), name
    with pytest.raises(ModelError, match="no mel"):
        replace(SMALL, mel_bands=0, input_codebooks=0)


def test_no_mel_is_what_dropout_gives() -> None:
    model = scrambled(SMALL)
    codes, mel = frames(SMALL)
    deaf = model(codes, mel, torch.tensor([False, True])).logits
    assert torch.allclose(deaf[0], model(codes, None).logits[0], atol=1e-6)
    assert torch.allclose(deaf[1], model(codes, mel).logits[1], atol=1e-6)


def test_mel_is_corrupted_in_training_mode_only() -> None:
    model = scrambled(SMALL)
    codes, mel = frames(SMALL)
    mask = torch.ones_like(codes[:, 0], dtype=torch.bool)
    assert training_losses(model, codes, mel, mask).total == training_losses(model, codes, mel, mask).total
    model.train()
    assert training_losses(model, codes, mel, mask).total != training_losses(model, codes, mel, mask).total


def test_initial_losses_are_those_of_a_uniform_guess() -> None:
    torch.manual_seed(0)
    model = HybridLM(PRESETS["hybrid-4m"])
    codes, mel = frames(model.config)
    first = training_losses(model, codes, mel, torch.ones_like(codes[:, 0], dtype=torch.bool))
    assert (first.token_nats / first.frames).item() == pytest.approx(6.931, abs=0.05)


def test_laplace_nats_are_a_density() -> None:
    x = torch.linspace(-40, 40, 80_001)
    density = torch.exp(-laplace_nats(x, torch.tensor(1.5), torch.tensor(0.7)))
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [1e-2, 1.0, 30.0])
def test_the_norm_is_rms_norm(dtype: torch.dtype, size: float) -> None:
    """Values and gradients of torch's own in float64."""
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
def test_the_gradient_of_the_norm_is_float32_under_autocast(compiled: bool) -> None:
    """A gradient nearly parallel to y, of which almost all cancels: in bfloat16 6.7 % off."""
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    other = torch.randn(64, 256, generator=torch.Generator().manual_seed(1))
    exact = x.double().requires_grad_()
    y = torch.nn.functional.rms_norm(exact, (256,), eps=torch.finfo(torch.float32).eps)
    gradient = y.detach().float() + 0.01 * other
    y.backward(gradient.double())
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        (torch.compile(norm) if compiled else norm)(x).backward(gradient)
    assert x.grad is not None and exact.grad is not None
    assert (x.grad - exact.grad).norm() / exact.grad.norm() < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_norm_keeps_its_input_s_type_on_every_device(device: str, dtype: torch.dtype) -> None:
    """Fake tensors tell the types that a GPU's would have, without one."""
    before = torch.is_autocast_enabled(device)
    torch.set_autocast_enabled(device, True)
    try:
        with FakeTensorMode():
            assert norm(torch.empty(2, 8, dtype=dtype, device=device)).dtype == dtype
    finally:
        torch.set_autocast_enabled(device, before)


def test_losses_of_bfloat16_predictions_are_computed_in_float32() -> None:
    """As they are on a GPU: a logarithm or exponential in bfloat16 has three digits."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 9, 16), (2, 9, 32), (2, 9, 8), (2, 9, 8)]
    rough = Prediction(*(torch.randn(shape, generator=generator).bfloat16() for shape in shapes))
    exact = Prediction(*(getattr(rough, field.name).float() for field in fields(Prediction)))
    codes, mel = torch.randint(32, (2, 9), generator=generator), torch.randn(2, 9, 8, generator=generator)
    mask = torch.arange(9).expand(2, 9) < 7
    with torch.autocast("cpu", torch.bfloat16):
        one = losses(rough, codes, mel, mask, 0.1)
    other = losses(exact, codes, mel, mask, 0.1)
    assert all(torch.equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Losses))


def test_relu_squared_has_the_gradient_of_its_formula() -> None:
    x = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ReLUSquared.apply, (x,))
    assert torch.equal(ReLUSquared.apply(x), x.clamp_min(0).square())


def test_rope_depends_on_relative_position_only() -> None:
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)

    def product(i: int, j: int) -> float:
        turned = [apply_rope(x, rope_table(p, p + 1, 16, x.device)) for x, p in ((q, i), (k, j))]
        return (turned[0] * turned[1]).sum().item()

    assert product(3, 1) == pytest.approx(product(103, 101), abs=1e-4)
    assert product(3, 1) != pytest.approx(product(3, 2), abs=1e-4)


def test_overfits_one_batch() -> None:
    """The hybrid overfits one batch to below 0.1 nats per token, and its mel loss falls with it."""
    torch.manual_seed(0)
    model = HybridLM(replace(SMALL, width=64, layers=2, heads=4)).train()
    codes, mel = frames(model.config, batch=4)
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


def test_saved_models_are_the_same_models(tmp_path: Path) -> None:
    model = scrambled(SMALL)
    model.mel_encoder.set_statistics(torch.arange(8.0), torch.arange(8.0))
    save_model(model, tmp_path)
    again = HybridLM.from_pretrained(tmp_path)
    assert again.config == model.config
    assert again.mel_encoder.mel_std.min() == pytest.approx(0.1)  # a silent band is not blown up
    codes, mel = frames(SMALL)
    assert torch.equal(again.eval()(codes, mel).logits, model(codes, mel).logits)


def test_checkpoints_of_another_shape_or_damaged_are_named(tmp_path: Path) -> None:
    save_model(scrambled(SMALL), tmp_path)
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


def test_hugging_face_round_trip(tmp_path: Path) -> None:
    model = scrambled(SMALL)
    model.save_pretrained(tmp_path / "saved")
    assert {"config.json", "model.safetensors"} <= {path.name for path in (tmp_path / "saved").iterdir()}
    again = HybridLM.from_pretrained(tmp_path / "saved")
    assert again.config == SMALL and not again.training
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))
    with pytest.raises(ModelError, match="neither a folder nor a model on the hub"):
        HybridLM.from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)
    with pytest.raises(ModelError, match="neither a folder nor a model on the hub"):
        HybridLM.from_pretrained(tmp_path / "absent")


def test_presets_are_fitted_to_the_data() -> None:
    data = {"vocab": 512, "context": 100, "mel_bands": 80}
    config = fit_to_data(PRESETS["hybrid-4m"], **data)
    assert (config.vocab, config.context, config.mel_bands) == (512, 100, 80)
    assert fit_to_data(PRESETS["gpt-4m"], **data).mel_bands == 0
