"""The order of datasets in a mixture: a pure function of (seed, position), like the order within each dataset.

The endless sequence of slots is divided into blocks of 1,000. In every block each dataset has the same number of slots,
in proportion to its weight, in a random order per block. So the number of a dataset's windows before any slot is one
product and a table look-up, and the proportions never deviate much from the weights.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from whisper_gpt.pipeline.errors import PipelineError

BLOCK = 1000


class Mixture:
    """Maps a mixture slot to (dataset index, index of the window within that dataset).

    `weights` need not sum to 1. Raises `PipelineError` if a weight is not above zero, or too small for one slot in a
    block.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        self._seed = seed
        self._slots = block_slots(weights)
        self._block = lru_cache(maxsize=4)(self._draw_block)

    def place(self, slot: int) -> tuple[int, int]:
        """Return the dataset at `slot`, and the number of its windows before `slot`."""
        if len(self._slots) == 1:
            return 0, slot
        block, within = divmod(slot, BLOCK)
        datasets, ranks = self._block(block)
        dataset = int(datasets[within])
        return dataset, block * int(self._slots[dataset]) + int(ranks[within])

    def taken(self, slot: int) -> list[int]:
        """Return the number of windows of each dataset before `slot`."""
        if len(self._slots) == 1:
            return [slot]
        block, within = divmod(slot, BLOCK)
        datasets, _ = self._block(block)
        return list(map(int, block * self._slots + np.bincount(datasets[:within], minlength=len(self._slots))))

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return each slot's dataset in `block`, and its rank among the dataset's slots there; both `[1000]`."""
        datasets = np.repeat(np.arange(len(self._slots)), self._slots)
        datasets = np.random.default_rng((self._seed, block)).permutation(datasets)
        ranks = np.zeros(BLOCK, np.int64)
        for dataset, slots in enumerate(self._slots):
            ranks[datasets == dataset] = np.arange(slots)
        return datasets, ranks


def block_slots(weights: Sequence[float]) -> np.ndarray:
    """Return the number of slots per block for each weight, int64 `[D]`: its share of 1,000, by largest remainders."""
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise PipelineError(f"the weights of a mixture must be finite and above zero: {list(weights)}")
    shares = BLOCK * np.asarray(weights, np.float64) / np.sum(weights)
    slots = np.floor(shares).astype(np.int64)
    slots[np.argsort(slots - shares, kind="stable")[: BLOCK - slots.sum()]] += 1
    if slots.min() == 0:
        raise PipelineError(f"weights {list(weights)}: a dataset has a share below 1/{BLOCK}; leave it out")
    return slots
