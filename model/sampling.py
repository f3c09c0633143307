"""Sample the next token from logits."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from whisper_gpt.model.errors import ModelError


@dataclass(frozen=True)
class Sampling:
    """Sampling options: `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 do not truncate the distribution."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or self.top_k < 0 or not 0 < self.top_p <= 1:
            options = f"--temperature {self.temperature} --top-k {self.top_k} --top-p {self.top_p}"
            raise ModelError(f"{options}: the first two must be at least 0, the last above 0 and at most 1")


def sample(
    logits: torch.Tensor, how: Sampling, generators: Sequence[torch.Generator | None] | None = None
) -> torch.Tensor:
    """Sample one token from each row of `logits` `[B, V]`, with its own of B `generators`; return int64 `[B]`."""
    if how.temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits / how.temperature
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
    rows = zip(logits.softmax(dim=-1), generators or [None] * len(logits), strict=True)
    return torch.cat([torch.multinomial(row, 1, generator=generator) for row, generator in rows])
