"""EnCodec's SEANet in a stream: the same outputs as a whole-signal pass, a few frames at a time.

Every layer of the causal model needs only a bounded past: a convolution its last `k_eff − stride` inputs, a transposed
one the `k − stride` outputs that its next input will add to, an LSTM its (h, c). The stock package throws all of that
away between calls; here it is carried in a `StreamState`, so that chunks of any whole number of frames give what one
pass over the whole signal gives (to float rounding). A state is a value: stepping returns a new one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.codec.encodec_import import SLSTM, SConv1d, SConvTranspose1d, SEANetResnetBlock, pad1d


@dataclass(frozen=True)
class StreamState:
    """What the layers carry over, in the order the signal meets them; each `[B, …]` (LSTM: `[layers, B, C]`)."""

    carried: tuple[torch.Tensor, ...]


def begin(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, StreamState]:
    """Pass the first chunk `[B, C, n]` of a signal; left edges are reflect-padded as the stock layers do.

    `n` must be a whole number of frames and, at the coarsest rate, longer than the padding there (6).
    """
    return _run(network, x, None)


def step(network: nn.Module, state: StreamState, x: torch.Tensor) -> tuple[torch.Tensor, StreamState]:
    """Pass the next chunk `[B, C, n]`, a whole number of frames → its outputs and the state after it."""
    return _run(network, x, state)


def _run(network: nn.Module, x: torch.Tensor, state: StreamState | None) -> tuple[torch.Tensor, StreamState]:
    before = iter(state.carried) if state is not None else None
    after: list[torch.Tensor] = []
    y = _layer(network, x, before, after)
    return y, StreamState(tuple(after))


def _layer(
    layer: nn.Module, x: torch.Tensor, before: Iterator[torch.Tensor] | None, after: list[torch.Tensor]
) -> torch.Tensor:
    """One layer: takes what it carries from `before` (None at the start of a signal), leaves it in `after`."""
    if isinstance(layer, nn.Sequential):
        for inner in layer:
            x = _layer(inner, x, before, after)
        return x
    if isinstance(layer, SEANetResnetBlock):
        return _layer(layer.shortcut, x, before, after) + _layer(layer.block, x, before, after)
    if isinstance(layer, SConv1d):
        return _conv(layer, x, before, after)
    if isinstance(layer, SConvTranspose1d):
        return _conv_transposed(layer, x, before, after)
    if isinstance(layer, SLSTM):
        return _lstm(layer, x, before, after)
    if isinstance(layer, nn.ELU | nn.Identity):
        return layer(x)
    raise TypeError(f"no streaming form is known for {type(layer).__name__}")


def _conv(
    layer: SConv1d, x: torch.Tensor, before: Iterator[torch.Tensor] | None, after: list[torch.Tensor]
) -> torch.Tensor:
    conv: nn.Conv1d = layer.conv.conv  # type: ignore[assignment]
    context = (conv.kernel_size[0] - 1) * conv.dilation[0] + 1 - conv.stride[0]
    if context == 0:
        return layer.conv(x)
    if before is None:
        x = pad1d(x, (context, 0), mode=layer.pad_mode)
    else:
        x = torch.cat([next(before), x], dim=-1)
    after.append(x[..., -context:].clone())  # a copy: a view would keep the whole chunk alive
    return layer.conv(x)


def _conv_transposed(
    layer: SConvTranspose1d, x: torch.Tensor, before: Iterator[torch.Tensor] | None, after: list[torch.Tensor]
) -> torch.Tensor:
    convtr: nn.ConvTranspose1d = layer.convtr.convtr  # type: ignore[assignment]
    overlap = convtr.kernel_size[0] - convtr.stride[0]
    y = layer.convtr(x)
    if before is not None:
        y[..., :overlap] += next(before)
    # The next call adds its own bias to these outputs, so this call's share of it goes.
    tail = y[..., -overlap:]
    after.append(tail - convtr.bias[:, None] if convtr.bias is not None else tail)
    return y[..., :-overlap]


def _lstm(
    layer: SLSTM, x: torch.Tensor, before: Iterator[torch.Tensor] | None, after: list[torch.Tensor]
) -> torch.Tensor:
    x = x.permute(2, 0, 1)  # [T, B, C]
    y, (h, c) = layer.lstm(x, None if before is None else (next(before), next(before)))
    after.extend((h, c))
    if layer.skip:
        y = y + x
    return y.permute(1, 2, 0)
