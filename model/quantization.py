"""Weights rounded to 8 bits, for generation on a CPU: a frame mostly waits for the model's weights to be read."""

import torch
from torch import nn
from torch.nn import functional as F

from whisper_gpt.model.depth import DepthDecoder
from whisper_gpt.model.errors import ModelError

# torch's kernel reads 16 weights at a time: past the end of a row whose length is not a multiple of 16.
_INPUTS = 16
# From this many vectors on, a product with the rounded weights in float32 is faster than the kernel.
_MANY_VECTORS = 32


class Int8Linear(nn.Module):
    """A linear layer with 8-bit weights and one scale per output (its largest weight / 127), as in gpt-fast.

    For fewer than 32 vectors, inputs and outputs are rounded to bfloat16 on the way. Returns the dtype of its input.
    """

    weight: torch.Tensor
    scales: torch.Tensor

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None):
        super().__init__()
        if weight.shape[1] % _INPUTS:
            raise ValueError(f"{weight.shape[1]} inputs: must be a multiple of {_INPUTS}")
        scales = (weight.abs().amax(dim=1).clamp_min(1e-30) / 127).bfloat16()  # [out]; above 0, to divide by
        steps = weight / scales.float()[:, None]
        self.register_buffer("weight", steps.round().clamp(-127, 127).to(torch.int8))  # [out, in]
        self.register_buffer("scales", scales)
        self.bias = bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.numel() >= _MANY_VECTORS * x.shape[-1]:
            return F.linear(x.float(), self.rounded(), self.bias).type_as(x)
        y = torch._weight_int8pack_mm(x.flatten(0, -2).to(torch.bfloat16, copy=True), self.weight, self.scales)
        y = y.unflatten(0, x.shape[:-1]).float()
        return (y if self.bias is None else y + self.bias).type_as(x)

    def rounded(self) -> torch.Tensor:
        """Return the weights as float32 `[out, in]`."""
        return self.weight * self.scales.float()[:, None]


def quantize_int8(model: nn.Module) -> None:
    """Round the matrices of `model` to 8 bits, in place, but for those whose inputs are not a multiple of 16.

    Embeddings and biases stay as they are. Raises `ModelError` if the model is not on the CPU.
    """
    if any(parameter.device.type != "cpu" for parameter in model.parameters()):
        raise ModelError("8-bit weights are for CPUs: pass --device cpu with --int8")
    for name, layer in list(model.named_children()):
        if isinstance(layer, nn.Linear) and layer.in_features % _INPUTS == 0:
            setattr(model, name, Int8Linear(layer.weight.detach(), layer.bias))
        else:
            quantize_int8(layer)
    if isinstance(model, DepthDecoder) and model.head.shape[2] % _INPUTS == 0:
        heads = [Int8Linear(head) for head in model.head.detach()]
        model.int8_heads = nn.ModuleList(heads)
        model.head = nn.Parameter(torch.stack([head.rounded() for head in heads]), requires_grad=False)
