"""The flat and the delay pattern: what each code depends on, packed windows, and likelihoods that can be compared."""

import pytest
import torch

from tests.helpers import without_zero_weights
from whisper_gpt.model.config import ModelConfig
from whisper_gpt.model.cost import training_flops
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.model.language_model import build_model, load_model
from whisper_gpt.model.objective import Objective, code_nats, pattern_losses
from whisper_gpt.model.patterns import PatternLM

K, V, T = 3, 16, 12


def config_of(pattern: str, **changes: object) -> ModelConfig:
    # With `depth_frames` 1 the depth decoder is scored on every frame, not on a sample.
    sizes = {
        "depth_frames": 1.0,
        "vocab": V,
        "context": T,
        "width": 32,
        "layers": 2,
        "heads": 2,
        "depth_width": 16,
        "depth_layers": 1,
    }
    codebooks = {"input_codebooks": K, "output_codebooks": K}
    return ModelConfig(f"small {pattern}", **{**sizes, **codebooks, "pattern": pattern, **changes})  # type: ignore[arg-type]


def trained_looking(pattern: str) -> PatternLM:
    """A model without any zero weight, so that every branch has an effect."""
    torch.manual_seed(0)
    return without_zero_weights(PatternLM(config_of(pattern)).eval())


def random_codes(batch: int = 1, frames: int = T) -> torch.Tensor:
    return torch.randint(V, (batch, K, frames), generator=torch.Generator().manual_seed(1))


def whole(codes: torch.Tensor) -> torch.Tensor:
    """The mask of windows without padding."""
    return torch.ones_like(codes[:, 0], dtype=torch.bool)


@torch.no_grad()
def nats(model: PatternLM, codes: torch.Tensor) -> torch.Tensor:
    return code_nats(model(codes, whole(codes))[0], codes.transpose(1, 2))[0]


# The position at which code k of frame t is predicted: it depends on all codes of earlier positions, and on no others.
POSITION = {"flat": lambda t, k: t * K + k, "delay": lambda t, k: t + k}


@pytest.mark.parametrize("pattern", POSITION)
@pytest.mark.parametrize("k", range(K))
def test_code_depends_on_those_of_earlier_positions_only(pattern: str, k: int) -> None:
    model, codes, t = trained_looking(pattern), random_codes(), 5
    changed = codes.clone()
    changed[0, k, t] = (changed[0, k, t] + 1) % V
    with torch.no_grad():
        differs = (model(codes, whole(codes))[0] != model(changed, whole(codes))[0]).any(dim=-1)[0]  # [T, K]
    position = POSITION[pattern]
    for frame in range(T):
        for codebook in range(K):
            later = position(frame, codebook) > position(t, k)
            assert bool(differs[frame, codebook]) == later, (frame, codebook)


@pytest.mark.parametrize("pattern", POSITION)
def test_packed_pieces_are_predicted_independently(pattern: str) -> None:
    """The delay pattern leaves out the finer codes of a piece's last frames, except those of the window's last one."""
    model, codes = trained_looking(pattern), random_codes()
    doc_ids = torch.tensor([[0] * 7 + [1] * (T - 7)])
    with torch.no_grad():
        logits, predicted = model(codes, whole(codes), doc_ids)
    packed = code_nats(logits, codes.transpose(1, 2))[0]
    alone = torch.cat([nats(model, codes[..., :7]), nats(model, codes[..., 7:])], dim=1)
    assert torch.allclose(packed[predicted], alone[predicted], atol=1e-5)
    left_out = [(0, t, k) for t in range(T) for k in range(K) if pattern == "delay" and t < 7 <= t + k]
    assert [tuple(index) for index in (~predicted).nonzero().tolist()] == left_out


def independent_model(pattern: str, logits: torch.Tensor) -> torch.nn.Module:
    """A model that predicts code k with `logits[k]`, whatever came before: its hidden states are all the same."""
    model = build_model(config_of(pattern))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed" in name:
                parameter.copy_(parameter[:1].expand_as(parameter))

        def head_for(hidden: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            return wanted[:, None] * hidden / hidden.square().sum()

        codes = random_codes()
        if isinstance(model, PatternLM):
            hidden = torch.nn.functional.rms_norm(model.embed.weight[0], (model.config.width,))
            model.head.copy_(torch.stack([head_for(hidden, wanted) for wanted in logits]))
            return model
        assert isinstance(model, HybridLM) and model.depth is not None
        hidden = model(codes, None).hidden[0, 0]
        model.head.weight.copy_(head_for(hidden, logits[0]))
        # The logits of the depth decoder are linear in its heads: one-hot heads show its hidden states.
        width = model.config.depth_width
        model.depth.head.zero_()
        model.depth.head[:, :width] = torch.eye(width)[: min(V, width)]
        states = model.depth(hidden[None], codes[..., 0])[0, :, :width]
        model.depth.head.copy_(torch.stack([head_for(*pair) for pair in zip(states, logits[1:], strict=True)]))
    return model


def test_all_patterns_agree_on_the_likelihood_of_independent_codebooks() -> None:
    logits = torch.randn(K, V, generator=torch.Generator().manual_seed(3))
    codes = random_codes(batch=4)
    expected = -sum(logits.log_softmax(dim=1)[k][codes[:, k]].sum() for k in range(K))
    for pattern in ("depth", "flat", "delay"):
        model = independent_model(pattern, logits)
        with torch.no_grad():
            losses = Objective(model.eval())(codes, codes.new_zeros(4, T, 0), whole(codes), None)
        total = losses.token_nats + losses.finer_nats.sum()
        assert torch.allclose(total, torch.as_tensor(expected), rtol=1e-4), pattern


@pytest.mark.parametrize("pattern", POSITION)
def test_padding_does_not_count(pattern: str) -> None:
    model, codes = trained_looking(pattern), random_codes(batch=2)
    mask = whole(codes)
    mask[1, 5:] = False
    other = codes.clone()
    other[1, :, 5:] = 0
    with torch.no_grad():
        one, two = pattern_losses(model, codes, mask), pattern_losses(model, other, mask)
    assert one.frames == T + 5
    assert torch.equal(one.token_nats, two.token_nats)
    assert torch.allclose(one.finer_nats, two.finer_nats)


@pytest.mark.parametrize("pattern", POSITION)
def test_one_batch_is_overfitted_in_every_codebook(pattern: str) -> None:
    torch.manual_seed(0)
    model, codes, mask = PatternLM(config_of(pattern)), random_codes(batch=2), whole(random_codes(batch=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(150):
        losses = pattern_losses(model, codes, mask)
        (losses.total / losses.frames).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert max(losses.token_nats, *losses.finer_nats) / losses.frames < 0.1


@pytest.mark.parametrize("pattern", POSITION)
def test_saved_model_is_loaded_with_its_pattern(pattern: str, tmp_path) -> None:
    model = trained_looking(pattern)
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, PatternLM) and loaded.config == model.config
    assert torch.equal(nats(loaded, random_codes()), nats(model, random_codes()))


def test_codes_without_a_prediction_count_as_the_mean_of_the_others() -> None:
    """In packed windows; padding has the piece number 0, as the first piece."""
    logits = torch.randn(K, V, generator=torch.Generator().manual_seed(3))
    model = independent_model("delay", logits)
    assert isinstance(model, PatternLM)
    codes, mask = random_codes(), torch.ones(1, T, dtype=torch.bool)
    mask[:, -2:] = False
    doc_ids = torch.tensor([[0] * 4 + [1] * (T - 6) + [0] * 2])
    with torch.no_grad():
        losses, (_, predicted) = pattern_losses(model, codes, mask, doc_ids), model(codes, mask, doc_ids)
    assert losses.frames == T - 2
    for k in range(1, K):
        counted = predicted[0, :, k] & mask[0]
        assert 0 < counted.sum() < T - 2
        mean = -logits.log_softmax(dim=1)[k][codes[0, k, counted]].mean()
        assert torch.allclose(losses.finer_nats[k - 1], mean * (T - 2), rtol=1e-4)


def test_patterns_refuse_mel_and_unread_codebooks() -> None:
    with pytest.raises(ModelError, match="PatternLM"):
        HybridLM(config_of("flat"))
    with pytest.raises(ModelError, match="pattern flat"):
        config_of("flat", mel_bands=8)
    with pytest.raises(ModelError, match="pattern delay"):
        config_of("delay", input_codebooks=1)
    with pytest.raises(ModelError, match="pattern steep"):
        config_of("steep")


def test_flat_pattern_costs_k_positions_per_frame() -> None:
    flat, delay = PatternLM(config_of("flat")), PatternLM(config_of("delay"))
    count = flat.parameter_count()
    assert count == delay.parameter_count()
    blocks = 2 * 12 * 32**2
    heads, attention = 6.0 * K * V * 32, 12 * T * 2 * 32
    assert training_flops(delay.config, count) == 6.0 * blocks + heads + attention
    assert training_flops(flat.config, count) == 6.0 * K * blocks + heads + K * K * attention
