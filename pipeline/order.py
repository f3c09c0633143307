"""The order of training windows as arithmetic: a pure function of (seed, epoch), so that a position is all its state.

An epoch visits every window once: shards in a random order, windows shuffled within a group of neighbouring shards, so
that reads stay local however large the corpus is. Nothing is buffered and nothing needs replaying: the window at
position p of the endless sequence of epochs is computed from p alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class WindowTable:
    """Windows of at most `context` frames that cover every sample once; int64 arrays `[W]`, grouped by shard.

    `sample` is a row of the manifest, `start` the first frame in it, `frames` how many; `shard_starts` `[S + 1]` says
    where each shard's windows begin.
    """

    sample: np.ndarray
    start: np.ndarray
    frames: np.ndarray
    shard_starts: np.ndarray

    def __len__(self) -> int:
        return len(self.sample)


def cut_windows(sample_frames: np.ndarray, sample_shards: Sequence[str], context: int) -> WindowTable:
    """Cut samples of `sample_frames` `[N]` frames, given in the order of their shards, into windows of `context`."""
    if context < 1:
        raise ValueError(f"a context of {context} frames")
    per_sample = -(-sample_frames // context)
    sample = np.repeat(np.arange(len(sample_frames)), per_sample)
    first = np.repeat(np.cumsum(per_sample) - per_sample, per_sample)
    start = (np.arange(len(sample)) - first) * context
    shards = np.asarray(sample_shards)[sample]
    changes = np.flatnonzero(shards[1:] != shards[:-1]) + 1 if len(shards) else np.zeros(0, np.int64)
    return WindowTable(
        sample=sample,
        start=start,
        frames=np.minimum(context, sample_frames[sample] - start),
        shard_starts=np.concatenate([[0], changes, [len(sample)]]).astype(np.int64),
    )


class EpochOrder:
    """The shuffled order of one epoch; `window_at(i)` for 0 ≤ i < number of windows."""

    def __init__(self, table: WindowTable, seed: int, epoch: int, shards_per_group: int):
        self._seed = (seed, epoch)
        shards = np.random.default_rng(self._seed).permutation(len(table.shard_starts) - 1)
        self._groups = [shards[at : at + shards_per_group] for at in range(0, len(shards), shards_per_group)]
        sizes = np.diff(table.shard_starts)
        self._group_ends = np.cumsum([sizes[group].sum() for group in self._groups])
        self._table = table
        self._group_order = lru_cache(maxsize=2)(self._shuffle_group)

    def window_at(self, index: int) -> int:
        """The row of the window table that stands at `index`."""
        group = int(np.searchsorted(self._group_ends, index, side="right"))
        begin = int(self._group_ends[group - 1]) if group else 0
        return int(self._group_order(group)[index - begin])

    def _shuffle_group(self, group: int) -> np.ndarray:
        starts = self._table.shard_starts
        windows = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in self._groups[group]])
        return np.random.default_rng((*self._seed, group)).permutation(windows)
