"""Muon over stacked matrices is torch's Muon up to rounding, and continues from its state."""

from pathlib import Path

import torch

from whisper_gpt.jobs.training.muon import StackedMuon

SHAPES = [(48, 16), (16, 16), (64, 16), (16, 64)] * 3
OPTIONS = {"lr": 4e-3, "weight_decay": 0.1}


def matrices() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def give_gradients(step: int, *parameters: list[torch.nn.Parameter]) -> None:
    torch.manual_seed(step)
    for same in zip(*parameters, strict=True):
        gradient = torch.randn_like(same[0])
        for parameter in same:
            parameter.grad = gradient.clone()


def test_updates_are_those_of_torch_and_states_can_be_exchanged(tmp_path: Path) -> None:
    def optimizers() -> tuple[torch.optim.Muon, StackedMuon]:
        of_torch = torch.optim.Muon(separate, adjust_lr_fn="match_rms_adamw", **OPTIONS)
        return of_torch, StackedMuon(stacked, **OPTIONS)

    separate, stacked = matrices(), matrices()
    one, other = optimizers()
    for step in range(4):
        give_gradients(step, separate, stacked)
        one.step()
        other.step()
        if step == 1:  # as resumed from a checkpoint that the other wrote
            torch.save((one.state_dict(), other.state_dict()), tmp_path / "states")
            first, second = torch.load(tmp_path / "states", weights_only=True)
            one, other = (
                torch.optim.Muon(separate, adjust_lr_fn="match_rms_adamw", **OPTIONS),
                StackedMuon(stacked, **OPTIONS),
            )
            one.load_state_dict(second)
            other.load_state_dict(first)
    for a, b in zip(separate, stacked, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)  # the products are in bfloat16
    assert not torch.equal(stacked[0], matrices()[0])


def test_a_matrix_without_a_gradient_stays_as_it_is() -> None:
    parameters = matrices()
    before = parameters[1].detach().clone()
    give_gradients(0, parameters)
    parameters[1].grad = None
    StackedMuon(parameters, **OPTIONS).step()
    assert torch.equal(parameters[1], before) and not torch.equal(parameters[5], matrices()[5])


def test_a_step_with_found_inf_changes_nothing_and_one_without_is_a_usual_step() -> None:
    parameters, usual = matrices(), matrices()
    flagged, plain = StackedMuon(parameters, **OPTIONS), StackedMuon(usual, **OPTIONS)
    for step in range(4):
        if step % 2:
            give_gradients(step, parameters)
            parameters[0].grad.fill_(float("nan"))
            before = [tensor.clone() for tensor in [*parameters, *momenta(flagged, parameters)]]
            flagged.found_inf = torch.tensor(1.0)
            flagged.step()
            after = [*parameters, *momenta(flagged, parameters)]
            assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        else:
            give_gradients(step, parameters, usual)
            flagged.found_inf = torch.tensor(0.0)
            flagged.step()
            plain.step()
    assert all(torch.equal(a, b) for a, b in zip(parameters, usual, strict=True))


def momenta(optimizer: StackedMuon, parameters: list[torch.nn.Parameter]) -> list[torch.Tensor]:
    return [optimizer.state[parameter]["momentum_buffer"] for parameter in parameters]
