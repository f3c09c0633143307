"""Weights of 8 bits: as near as rounding allows, in every matrix, and the same model in both of its passes."""

import pytest
import torch
from torch import nn

from tests.helpers import without_zero_weights
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.quantization import Int8Linear, quantize_int8
from whisper_gpt.model.sampling import Sampling

K = 4
SMALL = ModelConfig(
    "small", vocab=32, context=40, width=64, layers=2, heads=2, mel_bands=16, mel_width=32, mel_heads=2,
    input_codebooks=K, output_codebooks=K, depth_width=32, depth_layers=2, depth_heads=2,
)  # fmt: skip


def model_and_window() -> tuple[HybridLM, torch.Tensor, torch.Tensor]:
    """A model without any zero weight, and the codes and mel of two windows."""
    torch.manual_seed(0)
    model = without_zero_weights(HybridLM(SMALL).eval())
    return model, torch.randint(SMALL.vocab, (2, K, 12)), torch.randn(2, 12, SMALL.mel_bands)


@pytest.mark.parametrize("shape", [(48, 16), (5, 48), (1024, 128)])
def test_rounded_weights_are_within_half_a_step(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0])
    with torch.no_grad():
        layer.weight[0] = 0
    rounded = Int8Linear(layer.weight.detach(), layer.bias)
    steps = layer.weight.detach().abs().amax(dim=1, keepdim=True) / 127
    # Half a step of the scale, which bfloat16 rounds by up to 2 ** -9; so the largest weight loses up to 127 × 2 ** -9.
    assert (rounded.rounded() - layer.weight).abs().le(0.51 * steps).all()
    x = torch.randn(2, 7, shape[1])
    exact = x @ rounded.rounded().T + layer.bias
    assert torch.allclose(rounded(x), exact, atol=0.02 * float(exact.detach().abs().max()))
    many = torch.randn(4, 8, shape[1])
    assert torch.allclose(rounded(many), many @ rounded.rounded().T + layer.bias, atol=1e-5 * shape[1])
    assert rounded(x).dtype == x.dtype and torch.equal(rounded(x)[1, 3], rounded(x[1, 3][None])[0])


def test_rows_that_the_kernel_would_read_beyond_are_not_rounded() -> None:
    layers = nn.Sequential(nn.Linear(24, 16), nn.Linear(16, 24))
    quantize_int8(layers)
    assert [type(layer) for layer in layers] == [nn.Linear, Int8Linear]
    with pytest.raises(ValueError, match="24 inputs"):
        Int8Linear(torch.zeros(16, 24))


def test_a_model_on_another_device_is_refused() -> None:
    with pytest.raises(ModelError, match="--device cpu"):
        quantize_int8(HybridLM(SMALL).to("meta"))


def test_every_matrix_of_a_model_is_rounded_and_little_changes() -> None:
    model, codes, mel = model_and_window()
    names = {name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    with torch.no_grad():
        before = model(codes, mel)
        quantize_int8(model)
        after = model(codes, mel)
    rounded = {name for name, layer in model.named_modules() if isinstance(layer, Int8Linear)}
    assert names <= rounded and not any(isinstance(layer, nn.Linear) for layer in model.modules())
    difference = (after.logits - before.logits).std() / before.logits.std()
    assert 0 < difference < 0.05


def test_the_codes_drawn_are_those_that_the_teacher_forced_pass_finds_most_likely() -> None:
    model, codes, mel = model_and_window()
    quantize_int8(model)
    with torch.no_grad():
        prediction = model(codes, mel)
        drawn = model.draw(prediction, Sampling(temperature=0))
        assert model.depth is not None
        logits = model.depth(prediction.hidden[:, -1], drawn)  # [B, K - 1, V], with the heads as they were rounded
    chosen = logits.gather(2, drawn[:, 1:, None])[..., 0]
    assert (logits.amax(dim=2) - chosen < 0.02 * logits.abs().amax()).all()  # but for ties in bfloat16
