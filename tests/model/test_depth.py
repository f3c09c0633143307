"""The depth decoder: causal within a frame, exact when it samples, and without effect on models of one codebook."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.helpers import without_zero_weights
from whisper_gpt.model.config import PRESETS, ModelConfig
from whisper_gpt.model.depth import DepthDecoder
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.hybrid import HybridLM, Prediction
from whisper_gpt.model.objective import finer_nats, training_losses
from whisper_gpt.model.sampling import Sampling, gumbel_noise

K = 4
SMALL = ModelConfig(
    "small", vocab=32, context=40, width=32, layers=2, heads=2, mel_bands=8, mel_width=16, mel_heads=2,
    input_codebooks=K, output_codebooks=K, depth_width=16, depth_layers=2, depth_heads=2,
)  # fmt: skip


def trained_looking(config: ModelConfig = SMALL) -> HybridLM:
    """A model without any zero weight, so that every branch has an effect."""
    torch.manual_seed(0)
    return without_zero_weights(HybridLM(config).eval())


def random_frames(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(count, SMALL.width, generator=generator)
    return hidden, torch.randint(SMALL.vocab, (count, K), generator=generator)


def noise_of(count: int) -> torch.Tensor:
    return gumbel_noise(K - 1, SMALL.vocab, [torch.Generator()] * count)


def depth_of(model: HybridLM) -> DepthDecoder:
    assert model.depth is not None
    return model.depth


@pytest.mark.parametrize("k", range(K))
def test_logits_depend_on_coarser_codes_of_their_own_frame_only(k: int) -> None:
    depth, (hidden, codes) = depth_of(trained_looking()), random_frames()
    changed = codes.clone()
    changed[2, k] = (changed[2, k] + 1) % SMALL.vocab
    before, after = depth(hidden, codes), depth(hidden, changed)
    differs = (before != after).any(dim=-1)  # [N, K - 1], of codes 1 … K - 1
    expected = torch.zeros_like(differs)
    expected[2, k:] = True  # the logits of code k + 1 are at index k
    assert torch.equal(differs, expected)


def test_frame_t_depends_on_frames_before_t_and_on_its_own_coarser_codes() -> None:
    model = trained_looking()
    generator = torch.Generator().manual_seed(2)
    codes = torch.randint(SMALL.vocab, (1, K, 20), generator=generator)
    mel = torch.randn(1, 20, SMALL.mel_bands, generator=generator)
    t = 11
    later_codes, later_mel = codes.clone(), mel.clone()
    later_codes[..., t:] = (later_codes[..., t:] + 1) % SMALL.vocab
    later_mel[:, t:] += 3.0
    with torch.no_grad():
        hidden, other = model(codes, mel).hidden, model(later_codes, later_mel).hidden
    assert torch.equal(hidden[:, : t + 1], other[:, : t + 1])
    assert not torch.equal(hidden[:, t + 1], other[:, t + 1])


def test_sampling_agrees_with_the_teacher_forced_pass() -> None:
    depth, (hidden, codes) = depth_of(trained_looking()), random_frames()
    greedy, noise = Sampling(temperature=0), noise_of(6)
    drawn = depth.draw(hidden, codes[:, 0], greedy, noise)
    assert torch.equal(drawn[:, 0], codes[:, 0])
    assert torch.equal(drawn[:, 1:], depth(hidden, drawn).argmax(dim=-1))
    one_by_one = [depth.draw(hidden[i : i + 1], codes[i : i + 1, 0], greedy, noise[i : i + 1]) for i in range(6)]
    assert torch.equal(drawn, torch.cat(one_by_one))


def test_finer_codes_have_a_temperature_of_their_own() -> None:
    model, (hidden, _) = trained_looking(), random_frames(50)
    prediction = Prediction(hidden[:, None], model.head(hidden)[:, None], None, None)

    def draw(how: Sampling) -> torch.Tensor:
        return model.draw(prediction, how, [torch.Generator().manual_seed(i) for i in range(50)])

    drawn, finer = draw(Sampling(temperature=3.0)), draw(Sampling(temperature=3.0, finer_temperature=0))
    greedy = depth_of(model).draw(hidden, finer[:, 0], Sampling(temperature=0), noise_of(50))
    assert torch.equal(finer[:, 0], drawn[:, 0]) and not torch.equal(finer, drawn)
    assert torch.equal(finer, greedy) and not torch.equal(finer, draw(Sampling(temperature=0)))


def test_the_trunk_is_that_of_a_model_of_one_codebook() -> None:
    """The depth decoder is initialised last, and adds nothing to the coarsest codebook's logits."""
    torch.manual_seed(0)
    single = HybridLM(replace(SMALL, output_codebooks=1)).state_dict()
    torch.manual_seed(0)
    several = HybridLM(SMALL).state_dict()
    assert single.keys() < several.keys()
    assert all(torch.equal(tensor, several[name]) for name, tensor in single.items())
    assert all(name.startswith("depth.") for name in several.keys() - single.keys())


def test_all_frames_as_a_sample_give_the_exact_sums() -> None:
    depth, generator = depth_of(trained_looking()), torch.Generator().manual_seed(3)
    hidden = torch.randn(3, 10, SMALL.width, generator=generator)
    codes = torch.randint(SMALL.vocab, (3, K, 10), generator=generator)
    mask = torch.rand(3, 10, generator=generator) < 0.6
    logits = depth(hidden[mask], codes.transpose(1, 2)[mask])
    exact = F.cross_entropy(logits.flatten(0, 1), codes.transpose(1, 2)[mask][:, 1:].flatten(), reduction="none")
    exact = exact.view(-1, K - 1).sum(dim=0)
    with torch.no_grad():
        assert torch.allclose(finer_nats(depth, hidden, codes, mask, 1.0), exact, rtol=1e-5)
        samples = torch.stack([finer_nats(depth, hidden, codes, mask, 0.2) for _ in range(400)])
        assert torch.allclose(samples.mean(dim=0), exact, rtol=0.02)  # an unbiased estimate
        assert torch.equal(finer_nats(depth, hidden, codes, torch.zeros_like(mask), 0.2), torch.zeros(K - 1))


def test_every_codebook_overfits_one_batch() -> None:
    torch.manual_seed(0)
    config = replace(SMALL, depth_width=32, depth_frames=1.0, mel_noise=0.0, mel_dropout=0.0)
    model = HybridLM(config).train()
    codes, mel = torch.randint(SMALL.vocab, (2, K, 12)), torch.randn(2, 12, SMALL.mel_bands)
    mask = torch.ones(2, 12, dtype=torch.bool)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    for _ in range(300):
        result = training_losses(model, codes, mel, mask)
        optimizer.zero_grad()
        (result.total / result.frames).backward()
        optimizer.step()
    nats = torch.cat([result.token_nats[None], result.finer_nats]) / result.frames
    assert nats.shape == (K,) and nats.max() < 0.1


@pytest.mark.parametrize(("name", "millions"), [("hybrid-8m", 8.3), ("gpt-8m", 8.0)])
def test_presets_of_eight_codebooks_have_their_sizes(name: str, millions: float) -> None:
    assert HybridLM(PRESETS[name]).parameter_count() / 1e6 == pytest.approx(millions, rel=0.05)


def test_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(ModelError):
        replace(SMALL, output_codebooks=0)
    with pytest.raises(ModelError):
        replace(SMALL, depth_width=18, depth_heads=4)
