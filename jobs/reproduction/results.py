"""What training and scoring one row of the paper's table gives, over all its seeds."""

from dataclasses import dataclass

import numpy as np


# Compared and hashed by identity: arrays have no single equality, and `statistics` remembers what it found of a row.
@dataclass(frozen=True, eq=False)
class RowResult:
    """One row of the table on one domain, all seeds; raises `ValueError` where the shapes do not fit together."""

    row: str  # 'gpt-4m', 'gpt-40m', 'gpt-4m-all-codes', 'hybrid-4m', 'hybrid-4m-codes-1', 'mel-alone', 'unigram', …
    tag: str  # 'a' to 'f', or 'floor'
    description: str  # what it reads: 'token-only', 'all 8 codebooks summed', 'real causal mel', …
    parameters: int
    flops_per_token: float  # of training; 0 for floors
    learning_rate: float | None  # None: a floor
    tokens_trained: int
    wall_s: float  # mean over seeds
    seeds: tuple[int, ...]
    groups: tuple[str, ...]  # the N speakers (recordings, where unknown) of the split, alike in every row of a domain
    recordings: int  # in all groups
    tokens: np.ndarray  # int64 [N], scored tokens of each group, at least 1
    nats: np.ndarray  # float64 [S, N], sums over the tokens, by seed
    hits: np.ndarray  # int64 [S, N]
    position_nats: np.ndarray  # float64 [C], sums by position in the window, over all seeds
    position_tokens: np.ndarray  # int64 [C]
    curves: tuple[tuple[tuple[int, float], ...], ...]  # by seed: (tokens trained so far, validation nats per token)

    def __post_init__(self) -> None:
        # A wrong shape would broadcast, and give a number that looks right.
        count, by_seed = len(self.groups), (len(self.seeds), len(self.groups))
        fits = self.tokens.shape == (count,) and self.nats.shape == by_seed and self.hits.shape == by_seed
        if not fits or not count or not self.seeds or (self.tokens < 1).any():
            raise ValueError(
                f"{self.row}: {len(self.seeds)} seeds and {count} groups do not fit tokens {self.tokens.shape}, "
                f"nats {self.nats.shape}, hits {self.hits.shape}; each group needs at least 1 token"
            )
        if self.position_nats.ndim != 1 or self.position_nats.shape != self.position_tokens.shape:
            raise ValueError(
                f"{self.row}: position_nats {self.position_nats.shape}, position_tokens {self.position_tokens.shape}"
            )

    @property
    def floor(self) -> bool:
        """Counted, not trained."""
        return self.learning_rate is None
