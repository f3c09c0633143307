"""How datasets take turns in a mixture: a pure function of (seed, position), like the order within each of them.

The slots of the endless sequence come in blocks of 1,000. Every block gives each dataset the same number of slots, its
weight, in an order of its own; so what a dataset has given before any slot is a product and a table look-up, and no
draw ever strays far from the weights.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from whisper_gpt.pipeline.errors import PipelineError

BLOCK = 1000


class Mixture:
    """Slots of a mixture → which dataset, and the how-manieth window of it. `weights` need not add up to one.

    Raises `PipelineError` for a weight that is not above zero, or too small for a slot in a block.
    """

    def __init__(self, weights: Sequence[float], seed: int):
        self._seed = seed
        self._slots = block_slots(weights)
        self._block = lru_cache(maxsize=4)(self._draw_block)

    def place(self, slot: int) -> tuple[int, int]:
        """The dataset at `slot`, and how many windows of it stand before."""
        if len(self._slots) == 1:
            return 0, slot
        block, within = divmod(slot, BLOCK)
        datasets, ranks = self._block(block)
        dataset = int(datasets[within])
        return dataset, block * int(self._slots[dataset]) + int(ranks[within])

    def taken(self, slot: int) -> list[int]:
        """How many windows of each dataset stand before `slot`."""
        if len(self._slots) == 1:
            return [slot]
        block, within = divmod(slot, BLOCK)
        datasets, _ = self._block(block)
        return list(map(int, block * self._slots + np.bincount(datasets[:within], minlength=len(self._slots))))

    def _draw_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """The dataset of each slot in `block`, and its rank among the block's slots of that dataset; each `[1000]`."""
        datasets = np.repeat(np.arange(len(self._slots)), self._slots)
        datasets = np.random.default_rng((self._seed, block)).permutation(datasets)
        ranks = np.zeros(BLOCK, np.int64)
        for dataset, slots in enumerate(self._slots):
            ranks[datasets == dataset] = np.arange(slots)
        return datasets, ranks


def block_slots(weights: Sequence[float]) -> np.ndarray:
    """Slots of a block that each weight gets, int64 `[D]`: its share of 1,000, by the largest remainders."""
    if not weights or not all(0 < weight < float("inf") for weight in weights):
        raise PipelineError(f"the weights of a mixture must be above zero: {list(weights)}")
    shares = BLOCK * np.asarray(weights, np.float64) / np.sum(weights)
    slots = np.floor(shares).astype(np.int64)
    slots[np.argsort(slots - shares, kind="stable")[: BLOCK - slots.sum()]] += 1
    if slots.min() == 0:
        raise PipelineError(f"the weights {list(weights)} leave one dataset less than a thousandth; leave it out")
    return slots
