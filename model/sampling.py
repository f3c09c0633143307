"""Sample the next token from logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from whisper_gpt.model.errors import ModelError


@dataclass(frozen=True)
class Sampling:
    """Sampling options: `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 do not truncate the distribution.

    `finer_temperature` is that of all codebooks but the coarsest; None: the same.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    finer_temperature: float | None = None

    def __post_init__(self) -> None:
        finer = self.temperature if self.finer_temperature is None else self.finer_temperature
        temperatures = (self.temperature, finer)
        if not all(0 <= t < math.inf for t in temperatures) or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ModelError(
                f"--temperature {self.temperature} --finer-temperature {self.finer_temperature} --top-k {self.top_k} "
                f"--top-p {self.top_p}: the last must be above 0 and at most 1, the others at least 0"
            )

    @property
    def finer(self) -> "Sampling":
        """The options for all codebooks but the coarsest."""
        if self.finer_temperature is None:
            return self
        return replace(self, temperature=self.finer_temperature, finer_temperature=None)


def gumbel_noise(codebooks: int, vocab: int, generators: Sequence[torch.Generator | None]) -> torch.Tensor:
    """Return standard Gumbel noise, float32 `[B, K, V]`, to `sample` a frame with each of B generators.

    It is drawn on the CPU, so that equal seeds give equal noise whatever the device.
    """
    rows = [torch.empty(codebooks, vocab).exponential_(generator=generator) for generator in generators]
    return -torch.stack(rows).clamp_min_(torch.finfo(torch.float32).tiny).log()  # finite


def sample(logits: torch.Tensor, how: Sampling, noise: torch.Tensor) -> torch.Tensor:
    """Sample one token from each row of `logits` `[B, V]`, given Gumbel `noise` `[B, V]`; return int64 `[B]`.

    The Gumbel-max trick: the largest logit plus noise. torch.multinomial draws the same way, but from a generator; this
    is a pure function, so it can be compiled, and on a GPU it does not wait for the CPU.
    """
    if how.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / how.temperature
    if 0 < how.top_k < logits.shape[-1]:
        smallest_kept = logits.topk(how.top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < smallest_kept, -torch.inf)
    if how.top_p < 1:
        # Nucleus sampling (Holtzman et al. 2019): the fewest most likely tokens whose mass reaches top_p; never empty.
        ordered, order = logits.sort(dim=-1, descending=True)
        mass = ordered.softmax(dim=-1)
        before = mass.cumsum(dim=-1) - mass  # mass of the more likely tokens
        dropped = (before >= how.top_p).scatter(-1, order, before >= how.top_p)
        logits = logits.masked_fill(dropped, -torch.inf)
    return (logits + noise).argmax(dim=-1)
