"""The shape of an EnCodec-architecture codec, and the network built from it with the package's own layers."""

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

# 8 · 5 · 4 · 2 = 320 samples a frame: the one hop that shares its clock with the mel frames.
_RATIOS = [8, 5, 4, 2]

# Of untrained networks: about the norm of the latents on speech, and how much of it each codebook leaves over.
_CODEWORD_NORM = 1.0
_CODEWORD_NORM_RATIO = 0.9
# The last layer's share of its usual deviation. A decoder that begins louder than the signal spends its first
# hundreds of steps on getting quieter: after 300, SI-SDR was −8 dB with a share of 1 and 4 dB with this one.
_QUIET_START = 0.1


@dataclass(frozen=True)
class CodecArchitecture:
    """What distinguishes one codec's network from another's; the defaults are the official 24 kHz model's.

    `width` is the channels at full rate (doubled at each of the four downsamplings), `latent` the channels that are
    quantized, `codebooks` × `codebook_size` the residual quantizer.
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
    """The architecture that `net` was built with."""
    size, latent = codebooks(net)[0].shape
    return CodecArchitecture(net.encoder.n_filters, latent, len(codebooks(net)), size)


def build_network(architecture: CodecArchitecture) -> EncodecModel:
    """The causal mono 24 kHz network of `architecture`, its weights not yet set (no weight norm: weights are plain)."""
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
            kmeans_init=False,  # the k-means of `codec.training` sees more than one batch
        ),
        target_bandwidths=[],
        sample_rate=SAMPLE_RATE,
        channels=1,
    )


def seed_weights(net: EncodecModel, seed: int) -> None:
    """Weights under which a signal survives all layers: variance 1/fan-in, zero biases; drawn by NumPy, so the same
    on every platform. (With PyTorch's own initialisation the variation over time dies out within the network.)

    Codewords share one norm, so that the direction of a latent decides between them; each codebook is smaller than
    the one before, as the residuals are.
    """
    random = np.random.default_rng(seed)

    def draw(parameter: torch.Tensor, deviation: float) -> None:
        values = random.standard_normal(tuple(parameter.shape)).astype(np.float32) * np.float32(deviation)
        parameter.copy_(torch.from_numpy(values))

    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv1d | nn.ConvTranspose1d):
                # Each output of a transposed convolution is reached by kernel/stride taps of every input channel.
                reach = layer.stride[0] if isinstance(layer, nn.ConvTranspose1d) else 1
                draw(layer.weight, (layer.in_channels * layer.kernel_size[0] / reach) ** -0.5)
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
    """The codebooks of the residual quantizer, each `[codebook_size, latent]`: the tensors themselves, not copies."""
    return [cast(torch.Tensor, layer.codebook) for layer in net.quantizer.vq.layers]
