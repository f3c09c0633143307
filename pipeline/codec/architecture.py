"""The configuration of a codec with EnCodec's architecture, and its network, built from `encodec`'s layers."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from whisper_gpt.pipeline.codec.encodec_import import (
    EncodecModel,
    ResidualVectorQuantizer,
    SConv1d,
    SEANetDecoder,
    SEANetEncoder,
)
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.frames import SAMPLE_RATE

# 8 · 5 · 4 · 2 = 320 samples per frame: the same hop as the mel frames.
_RATIOS = [8, 5, 4, 2]

# For untrained networks: about the norm of latents of speech, and the factor from one codebook's residual to the next.
_CODEWORD_NORM = 1.0
_CODEWORD_NORM_RATIO = 0.9
# Scale of the last layer's initial weights. A decoder that starts louder than the signal spends its first hundreds of
# steps on reducing its output: after 300 steps SI-SDR was −8 dB with a scale of 1 and 4 dB with this one.
_QUIET_START = 0.1


@dataclass(frozen=True)
class CodecArchitecture:
    """The configurable part of a codec's network; the defaults are those of the official 24 kHz model.

    `width` is the number of channels at full rate (doubled at each of the four downsamplings), `latent` that of the
    quantized latents, `codebooks` × `codebook_size` the residual quantizer's size.
    """

    width: int = 32
    latent: int = 128
    codebooks: int = 32
    codebook_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("width", "latent", "codebooks"):
            if getattr(self, name) < 1:
                raise PipelineError(f"--{name} {getattr(self, name)}: must be at least 1")
        if self.width % 2:
            raise PipelineError(f"--width {self.width}: must be even (residual blocks halve it)")
        size = self.codebook_size
        if not 2 <= size <= 2**14 or size & (size - 1):
            raise PipelineError(f"--codebook-size {size}: must be a power of two, 2 to 16384")


def architecture_of(net: EncodecModel) -> CodecArchitecture:
    """Return the architecture that `net` was built with."""
    size, latent = codebooks(net)[0].shape
    return CodecArchitecture(net.encoder.n_filters, latent, len(codebooks(net)), size)


def build_network(architecture: CodecArchitecture) -> EncodecModel:
    """Build the causal mono 24 kHz network of `architecture`, with unset weights and without weight norm."""
    shape: dict[str, Any] = {
        "dimension": architecture.latent,
        "n_filters": architecture.width,
        "ratios": _RATIOS,
        "norm": "none",
    }
    return EncodecModel(
        SEANetEncoder(causal=True, **shape),
        SEANetDecoder(causal=True, **shape),
        ResidualVectorQuantizer(
            dimension=architecture.latent,
            n_q=architecture.codebooks,
            bins=architecture.codebook_size,
            kmeans_init=False,  # the k-means in `codec.training` uses more than one batch
        ),
        target_bandwidths=[],
        sample_rate=SAMPLE_RATE,
        channels=1,
    )


def seed_weights(net: EncodecModel, seed: int) -> None:
    """Set random weights that preserve the signal through all layers: variance 1/fan-in, zero biases.

    They are drawn by NumPy, so they are the same on every platform. (With PyTorch's initialisation the variation over
    time vanishes within the network.) The codewords of a codebook have the same norm, so that the direction of a latent
    decides between them; each codebook's norm is smaller than that of the one before, as the residuals are.
    """
    random = np.random.default_rng(seed)

    def draw(parameter: torch.Tensor, deviation: float) -> None:
        values = random.standard_normal(tuple(parameter.shape)).astype(np.float32) * np.float32(deviation)
        parameter.copy_(torch.from_numpy(values))

    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                # Each output of a transposed convolution sums kernel/stride taps of every input channel.
                stride = layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1
                draw(layer.weight, (layer.in_channels * layer.kernel_size[0] / stride) ** -0.5)
            elif isinstance(layer, nn.LSTM):
                for name, parameter in layer.named_parameters():
                    if "weight" in name:
                        draw(parameter, layer.hidden_size**-0.5)
        for name, parameter in net.named_parameters():
            if "bias" in name:
                parameter.zero_()
        cast(SConv1d, net.decoder.model[-1]).conv.conv.weight.mul_(_QUIET_START)  # type: ignore[operator]
        for k, codebook in enumerate(codebooks(net)):
            draw(codebook, 1.0)
            norm = _CODEWORD_NORM * _CODEWORD_NORM_RATIO**k
            codebook.mul_(norm / codebook.norm(dim=1, keepdim=True))


def codebooks(net: EncodecModel) -> list[torch.Tensor]:
    """Return the codebooks of the residual quantizer, each `[codebook_size, latent]`, not copied."""
    return [cast(torch.Tensor, layer.codebook) for layer in net.quantizer.vq.layers]
