"""Streaming for EnCodec's SEANet: the same outputs as for the whole signal, a few frames at a time, and faster.

Every layer of the causal model needs only a bounded past: a convolution its last `kernel − stride` inputs, a transposed
one the part of its last output that the next input adds to, an LSTM its (h, c). The `encodec` package discards all of
that between calls; here it is passed on in a `StreamState`, so that chunks of any whole number of frames give the same
as one pass over the whole signal (up to float rounding). States are immutable: a step returns a new one.

The layers use the weights and the arithmetic of the package's network, but with signals as `[B, T, C]`: in that layout
a strided convolution is a matrix product of overlapping rows, and so is a transposed one (docs/experiments.md has the
savings of each choice).
"""

import copy
import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn import functional as F

from whisper_gpt.pipeline.codec.encodec_import import SLSTM, SConv1d, SConvTranspose1d, SEANetResnetBlock

# From this many input channels on, a matrix product is faster than oneDNN's convolution.
_MATRIX_CHANNELS = 256
# Signals encoded as one batch on a CPU: they share each read of the LSTM's 16 MB of weights, and more gain little. A
# batch-independent LSTM always gets that many.
FULL_BATCH = 8


@dataclass(frozen=True)
class StreamState:
    """The tensors that the layers carry over from chunk to chunk, in the order of the layers; each `[B, …]`."""

    carried: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return len(self.carried[0])

    def __getitem__(self, rows: slice) -> "StreamState":
        """Return the state of some of the batch's signals."""
        return StreamState(tuple(tensor[rows] for tensor in self.carried))


def join(states: list[StreamState]) -> StreamState:
    """Concatenate `states` along the batch dimension."""
    return StreamState(tuple(torch.cat(parts) for parts in zip(*(s.carried for s in states), strict=True)))


@dataclass(frozen=True)
class Conv:
    """y[t] = bias + Σ_j weight[j] · x[stride · t + j], with ELU(x) instead of x if `elu` is set.

    `weight` is a matrix `[out, kernel · in]`, or `[out, in, 1, kernel]` with channels last for oneDNN.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    kernel: int
    stride: int
    elu: bool

    def __call__(self, x: torch.Tensor, carry: "Carry") -> torch.Tensor:
        if self.kernel > self.stride:
            x = carry.prepend(x, self.kernel - self.stride, self.elu)
        elif self.elu:
            x = elu(x, torch.empty_like(x))
        if self.weight.dim() == 4:
            return F.conv2d(x.mT[:, :, None], self.weight, self.bias, (1, self.stride))[:, :, 0].mT
        if self.kernel > 1:
            # Row t is the `kernel` inputs of output t, which are already contiguous in memory.
            (batch, length, channels), x = x.shape, x.contiguous()
            rows = (length - self.kernel) // self.stride + 1
            x = x.as_strided((batch, rows, self.kernel * channels), (length * channels, self.stride * channels, 1))
        return F.linear(x, self.weight, self.bias)


@dataclass(frozen=True)
class TransposedConv:
    """ELU, then a transposed convolution: each input adds to two strides of output, the current and the next.

    `weight` `[2 · stride · out, in]`.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    stride: int

    def __call__(self, x: torch.Tensor, carry: "Carry") -> torch.Tensor:
        # Each [B, T, stride · out].
        current, following = F.linear(elu(x, torch.empty_like(x)), self.weight).chunk(2, dim=-1)
        y = current + carry.delay(following)
        return y.unflatten(-1, (self.stride, -1)).flatten(1, 2) + self.bias


@dataclass(frozen=True)
class Residual:
    """shortcut(x) + last(ELU(first(x))); `last` has a kernel of 1, so it is added as a matrix product."""

    shortcut: Conv
    first: Conv
    last: torch.Tensor

    def __call__(self, x: torch.Tensor, carry: "Carry") -> torch.Tensor:
        y = self.shortcut(x, carry)
        inner = self.first(x, carry)
        y.flatten(0, 1).addmm_(elu(inner, inner).flatten(0, 1), self.last.T)
        return y


@dataclass(frozen=True)
class Lstm:
    """An LSTM plus its input. h and c are carried as one `[B, 2, layers, C]`, zeros at a signal's start.

    `one_step` has a matrix `[4C, 2C]` and a bias per layer, for the layer's input and h side by side. If
    `batch_independent`, a CPU gets smaller batches filled up with zeros: products of other sizes round differently.
    """

    module: nn.LSTM
    one_step: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    batch_independent: bool = False

    @classmethod
    def of(cls, module: nn.LSTM) -> "Lstm":
        return cls(module, tuple((torch.cat([w, r], dim=1), b + c) for w, r, b, c in module.all_weights))

    def __call__(self, x: torch.Tensor, carry: "Carry") -> torch.Tensor:
        state = carry.state_of(x, self.module)
        if x.shape[1] == 1:
            y, after = self._step(x, state)
        elif x.is_cuda or not self.batch_independent:
            y, after = self._all_steps(x, state)
        else:
            parts = zip(x.split(FULL_BATCH), state.split(FULL_BATCH), strict=True)
            y, after = map(torch.cat, zip(*itertools.starmap(self._in_full_batch, parts), strict=True))
        carry.after.append(after)
        return x + y

    def _all_steps(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, after = self.module(x.transpose(0, 1), tuple(state.permute(1, 2, 0, 3).contiguous()))
        return y.transpose(0, 1), torch.stack(after).permute(2, 0, 1, 3).contiguous()

    def _in_full_batch(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        missing = FULL_BATCH - len(x)
        y, after = self._all_steps(F.pad(x, (0, 0, 0, 0, 0, missing)), F.pad(state, (0, 0, 0, 0, 0, 0, 0, missing)))
        return y[: len(x)], after[: len(x)]

    def _step(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute a single step; on a CPU `nn.LSTM` packs its weights at every call, which takes far longer."""
        y, after = x[:, 0], torch.empty_like(state)
        for layer, (weight, bias) in enumerate(self.one_step):
            h, c = state[:, :, layer].unbind(1)
            inward, forget, cell, outward = F.linear(torch.cat([y, h], dim=1), weight, bias).chunk(4, dim=1)
            after[:, 1, layer] = c = forget.sigmoid() * c + inward.sigmoid() * cell.tanh()
            after[:, 0, layer] = y = outward.sigmoid() * c.tanh()
        return y[:, None], after


Layer = Conv | TransposedConv | Residual | Lstm


class Carry:
    """Passes state through the layers: reads the previous state (None at a signal's start), collects the next one."""

    def __init__(self, before: StreamState | None):
        self._before = before
        self.after: list[torch.Tensor] = []

    def prepend(self, x: torch.Tensor, length: int, activate: bool) -> torch.Tensor:
        """Return `x` `[B, T, C]`, or ELU(x), preceded by the last `length` steps of the previous chunk.

        At the start of a signal its first steps are mirrored instead, as the `encodec` package pads.
        """
        before = self._take()
        both = x.new_empty(len(x), length + x.shape[1], x.shape[2])
        if activate:
            elu(x, both[:, length:])
        else:
            both[:, length:] = x
        both[:, :length] = both[:, length + 1 : 2 * length + 1].flip(1) if before is None else before
        # A copy: a view would keep the whole chunk alive, and compiled code depends on strides.
        self.after.append(both[:, -length:].clone(memory_format=torch.contiguous_format))
        return both

    def delay(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` `[B, T, C]` delayed by one step."""
        before = self._take()
        self.after.append(x[:, -1:].clone(memory_format=torch.contiguous_format))
        return torch.cat([torch.zeros_like(x[:, :1]) if before is None else before, x[:, :-1]], dim=1)

    def state_of(self, x: torch.Tensor, lstm: nn.LSTM) -> torch.Tensor:
        """Return h and c of `lstm` `[B, 2, layers, C]` before `x` `[B, T, C]`."""
        before = self._take()
        return x.new_zeros(len(x), 2, lstm.num_layers, lstm.hidden_size) if before is None else before

    def of_each(self, signals: int) -> list["Carry"]:
        """Return a carry for each of the batch's signals, for the remaining layers; `merge` joins them again."""
        if self._before is None:
            return [Carry(None) for _ in range(signals)]
        rest = StreamState(self._before.carried[len(self.after) :])
        return [Carry(rest[i : i + 1]) for i in range(signals)]

    def merge(self, carries: list["Carry"]) -> None:
        self.after.extend(torch.cat(parts) for parts in zip(*(carry.after for carry in carries), strict=True))

    def _take(self) -> torch.Tensor | None:
        """Return what the current layer carried over from the previous chunk."""
        return None if self._before is None else self._before.carried[len(self.after)]


def elu(x: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    """Write ELU(x) = max(x, exp(min(x, 0)) − 1) to `out`; torch's ELU uses expm1, which is not vectorised well."""
    return torch.maximum(x, x.clamp(max=0).exp_().sub_(1), out=out)


def compile_layers(network: nn.Sequential, dtype: torch.dtype) -> list[Layer]:
    """Convert the `model` of a SEANet encoder or decoder to streaming layers, with weights of type `dtype`."""
    layers: list[Layer] = []
    activated = False
    for module in network:
        if isinstance(module, nn.ELU):
            activated = True  # fused into the next layer
            continue
        if isinstance(module, SEANetResnetBlock):
            layers.append(_residual(module, dtype))
        elif isinstance(module, SConv1d):
            layers.append(_conv(module, dtype, elu=activated))
        elif isinstance(module, SConvTranspose1d) and activated:
            layers.append(_transposed(module, dtype))
        elif isinstance(module, SLSTM):
            layers.append(Lstm.of(copy.deepcopy(module.lstm).to(dtype)))
        else:
            raise TypeError(f"no streaming form for {type(module).__name__} here")
        activated = False
    return layers


def batch_independent(layers: list[Layer]) -> list[Layer]:
    """Return layers that on a CPU compute a signal's chunk to the same bits in any batch of chunks as long; slower for
    a few signals."""
    return [replace(layer, batch_independent=True) if isinstance(layer, Lstm) else layer for layer in layers]


def run(layers: list[Layer], state: StreamState | None, x: torch.Tensor) -> tuple[torch.Tensor, StreamState]:
    """Run the layers on the next chunk `[B, T, C]`; return outputs `[B, T', C']` and the next state.

    T is a whole number of frames. Without a state the signals start here; then T must be more than 6 frames, the
    padding at the coarsest rate.
    """
    carry = Carry(state)
    for is_lstm, group in itertools.groupby(layers, key=lambda layer: isinstance(layer, Lstm)):
        if (is_lstm and x.shape[1] > 1) or len(x) == 1 or x.is_cuda:
            x = _pass(group, x, carry)
        else:
            # On a CPU one signal at a time: its activations stay in cache, those of the whole batch would not. (A
            # single LSTM step too, as products of several signals round differently.)
            x = _pass_each(list(group), x, carry)
    return x, StreamState(tuple(carry.after))


def _pass(layers: Iterable[Layer], x: torch.Tensor, carry: Carry) -> torch.Tensor:
    for layer in layers:
        x = layer(x, carry)
    return x


def _pass_each(layers: list[Layer], x: torch.Tensor, carry: Carry) -> torch.Tensor:
    carries = carry.of_each(len(x))
    outputs = [_pass(layers, x[i : i + 1], signal_carry) for i, signal_carry in enumerate(carries)]
    carry.merge(carries)
    return torch.cat(outputs)


def _residual(block: SEANetResnetBlock, dtype: torch.dtype) -> Residual:
    _, first, _, second = block.block
    shortcut, last = _conv(block.shortcut, dtype, elu=False), _conv(second, dtype, elu=True)
    if last.kernel != 1:
        raise TypeError("no streaming form for a residual block that does not end in a kernel of 1")
    both = Conv(shortcut.weight, shortcut.bias + last.bias, shortcut.kernel, shortcut.stride, elu=False)
    return Residual(both, _conv(first, dtype, elu=True), last.weight)


def _conv(layer: nn.Module, dtype: torch.dtype, elu: bool) -> Conv:
    conv: nn.Conv1d = layer.conv.conv  # type: ignore[union-attr,assignment]
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if conv.dilation[0] != 1 or conv.bias is None:
        raise TypeError("no streaming form for a convolution with dilation or without bias")
    weight, bias = conv.weight.mT.contiguous().to(dtype), conv.bias.to(dtype)  # [out, kernel, in]
    if kernel == 1 or conv.in_channels >= _MATRIX_CHANNELS:
        return Conv(weight.flatten(1), bias, kernel, stride, elu)
    return Conv(weight.mT[:, :, None], bias, kernel, stride, elu)


def _transposed(layer: SConvTranspose1d, dtype: torch.dtype) -> TransposedConv:
    convtr: nn.ConvTranspose1d = layer.convtr.convtr  # type: ignore[assignment]
    stride = convtr.stride[0]
    if convtr.kernel_size[0] != 2 * stride or convtr.bias is None:
        raise TypeError("no streaming form for a transposed convolution that does not span two strides")
    weight = convtr.weight.permute(2, 1, 0).flatten(0, 1).contiguous()
    return TransposedConv(weight.to(dtype), convtr.bias.to(dtype), stride)
