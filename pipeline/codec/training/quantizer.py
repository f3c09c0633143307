"""Train the residual quantizer: k-means initialisation, moving averages, replacement of dead codewords.

The `encodec` package has all three, but a dead codeword that it replaces is overwritten in the same call by its
unchanged moving average; its threshold (2 uses per batch) declares every codeword dead if a batch has fewer frames than
the codebook has entries; and its commitment loss has no gradient past the first codebook. So this module trains the
network's codebooks.
"""

from dataclasses import dataclass

import torch
from torch import nn

from whisper_gpt.pipeline.codec.architecture import codebooks
from whisper_gpt.pipeline.codec.encodec_import import EncodecModel
from whisper_gpt.pipeline.codec.quantizer import nearest

_DECAY = 0.99
# A codeword is dead if it is used less than this fraction of uniform use.
_DEAD_SHARE = 0.05
_KMEANS_ROUNDS = 10


@dataclass(frozen=True)
class Quantized:
    """Quantized latents `[B, D, T]` (with a straight-through gradient) and the commitment loss: the mean square of the
    residual, mean over codebooks."""

    latents: torch.Tensor
    commitment: torch.Tensor


class QuantizerTrainer(nn.Module):
    """The moving averages behind a network's codebooks; a codeword is sums / counts.

    `counts` `[K, size]`: how often each codeword is used, 1 is uniform use. `sums` `[K, size, D]`: the sum of the
    vectors assigned to it.
    """

    counts: torch.Tensor
    sums: torch.Tensor
    has_started: torch.Tensor

    def __init__(self, net: EncodecModel) -> None:
        super().__init__()
        stacked = torch.stack(codebooks(net))  # [K, size, D]
        self.register_buffer("counts", torch.ones(stacked.shape[:2]))
        self.register_buffer("sums", stacked.clone())
        self.register_buffer("has_started", torch.zeros(1, dtype=torch.uint8))

    @property
    def started(self) -> bool:
        """Whether `start` has initialised the codebooks, so that latents can be quantized."""
        return bool(self.has_started)

    @torch.no_grad()
    def start(self, net: EncodecModel, frames: torch.Tensor) -> None:
        """Initialise every codebook of `net` by k-means on the residual that the previous ones leave of `[n, D]`."""
        residual = frames
        for k, codebook in enumerate(codebooks(net)):
            codebook.copy_(_draw(residual, len(codebook)))
            for _ in range(_KMEANS_ROUNDS):
                self._move(k, codebook, residual, _nearest(residual, codebook), decay=0.0)
            residual = residual - codebook[_nearest(residual, codebook)]
        self.has_started.fill_(1)

    def keep_codebooks(self) -> None:
        """Start with the codebooks that the network has, as if they were uniformly used so far."""
        self.has_started.fill_(1)

    def forward(self, net: EncodecModel, latents: torch.Tensor, depth: int) -> Quantized:
        """Quantize latents `[B, D, T]` with the first `depth` codebooks of `net`, and update those codebooks."""
        residual, commitment = latents.transpose(1, 2).flatten(0, 1), torch.zeros((), device=latents.device)
        for k, codebook in enumerate(codebooks(net)[:depth]):
            chosen = _nearest(residual.detach(), codebook)
            codeword = codebook[chosen]
            self._move(k, codebook, residual.detach(), chosen, _DECAY)
            residual = residual - codeword
            commitment = commitment + residual.square().mean()
        error = residual.detach().unflatten(0, (len(latents), -1)).transpose(1, 2)
        return Quantized(latents - error, commitment / depth)

    @torch.no_grad()
    def _move(self, k: int, codebook: torch.Tensor, vectors: torch.Tensor, chosen: torch.Tensor, decay: float) -> None:
        """Move each codeword of codebook k towards the mean of the `vectors` `[n, D]` assigned to it."""
        counts, sums = self.counts[k], self.sums[k]
        share = len(codebook) / len(vectors)
        used = torch.zeros_like(counts).index_add_(0, chosen, torch.full_like(vectors[:, 0], share))
        total = torch.zeros_like(sums).index_add_(0, chosen, vectors * share)
        counts.lerp_(used, 1 - decay)
        sums.lerp_(total, 1 - decay)
        dead = (counts < _DEAD_SHARE).nonzero()[:, 0]
        # Reset to uniform use, so that a replaced codeword has time to be used before it can count as dead again.
        counts[dead] = 1.0
        sums[dead] = _draw(vectors, len(dead))
        codebook.copy_(sums / counts[:, None])


def _nearest(vectors: torch.Tensor, codebook: torch.Tensor) -> torch.Tensor:
    return nearest(vectors, codebook, codebook.square().sum(1).mul_(-0.5))


def _draw(vectors: torch.Tensor, count: int) -> torch.Tensor:
    # Drawn on the CPU, because checkpoints store the CPU's random state.
    return vectors[torch.randint(len(vectors), (count,)).to(vectors.device)]
