"""The order of training windows: a pure function of (seed, epoch), so that a position is its whole state.

An epoch visits every window once: shards in random order, and windows shuffled within a group of consecutive shards,
so that reads stay local however large the corpus is. Nothing is buffered or replayed: the window at position p of the
endless sequence of epochs is computed from p alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# Increased whenever the window at a position of a (seed, epoch) changes: runs of another version cannot be resumed.
ORDER_VERSION = 2


class Piece(NamedTuple):
    """Part of a sample in a window: `frames` frames from frame `start` on of manifest row `sample`."""

    sample: int
    start: int
    frames: int


@dataclass(frozen=True)
class WindowTable:
    """Windows of at most `context` frames that cover every sample once; int64 arrays, grouped by shard.

    Each sample is cut separately or, with `pack`, all samples of a shard are concatenated and then cut. Shard s has the
    windows `shard_starts[s]` to `shard_starts[s + 1]` - 1, whatever `offset` is passed to `pieces`.
    """

    context: int
    pack: bool
    begins: np.ndarray  # [N + 1] each sample's first frame in the concatenation of all samples; the last is its end
    shard_begins: np.ndarray  # [S + 1] the same for each shard's first sample
    shard_starts: np.ndarray  # [S + 1] each shard's first window
    sample_starts: np.ndarray  # [N + 1] each sample's first window without `pack`

    def __len__(self) -> int:
        return int(self.shard_starts[-1])

    def pieces(self, window: int, offset: int = 0) -> list[Piece]:
        """Return the pieces of a window, with all cuts shifted by `offset` frames.

        With `pack` a shard wraps around: its last window holds its end, then the frames before its first cut. Without
        `pack`, the shift makes a sample's first window shorter.
        """
        if not self.pack:
            return [self._of_one_sample(window, offset)]
        shard = int(np.searchsorted(self.shard_starts, window, side="right")) - 1
        begin, end = int(self.shard_begins[shard]), int(self.shard_begins[shard + 1])
        length, before = end - begin, (window - int(self.shard_starts[shard])) * self.context
        first = begin + (before + offset) % length
        frames = min(self.context, length - before)
        until_end = min(frames, end - first)
        return [*self._between(first, first + until_end), *self._between(begin, begin + frames - until_end)]

    def _between(self, begin: int, end: int) -> Iterator[Piece]:
        """Yield the pieces from frame `begin` to `end` of the concatenation of all samples."""
        sample = int(np.searchsorted(self.begins, begin, side="right")) - 1
        while begin < end:
            until = min(end, int(self.begins[sample + 1]))
            yield Piece(sample, begin - int(self.begins[sample]), until - begin)
            begin, sample = until, sample + 1

    def _of_one_sample(self, window: int, offset: int) -> Piece:
        sample = int(np.searchsorted(self.sample_starts, window, side="right")) - 1
        frames = int(self.begins[sample + 1] - self.begins[sample])
        shortest = frames % self.context or self.context  # a shorter first window would add a window
        first = self.context - offset % (self.context - shortest + 1)
        end = first + (window - int(self.sample_starts[sample])) * self.context
        start = max(0, end - self.context)
        return Piece(sample, start, min(frames, end) - start)


def cut_windows(sample_frames: np.ndarray, sample_shards: np.ndarray, context: int, pack: bool = False) -> WindowTable:
    """Cut samples of `sample_frames` `[N]` frames (at least 1), ordered by their shards `[N]`, into windows.

    Each sample is cut separately, every `context` frames; with `pack`, all samples of a shard are concatenated first.
    """
    if context < 1:
        raise ValueError(f"context must be at least 1 frame, not {context}")
    begins = np.concatenate(([0], np.cumsum(sample_frames)))
    first_samples = np.flatnonzero(np.append(True, sample_shards[1:] != sample_shards[:-1])[: len(sample_frames)])
    shard_begins = np.append(begins[first_samples], begins[-1])
    sample_starts = np.concatenate(([0], np.cumsum(-(-sample_frames // context))))
    if pack:
        shard_starts = np.concatenate(([0], np.cumsum(-(-np.diff(shard_begins) // context))))
    else:
        shard_starts = np.append(sample_starts[first_samples], sample_starts[-1])
    return WindowTable(context, pack, begins, shard_begins, shard_starts, sample_starts)


class EpochOrder:
    """The shuffled order of one epoch: `window_at(i)` for 0 ≤ i < number of windows, and the `offset` of its cuts.

    `seed` is a sequence of numbers, so that the datasets of a mixture can have different orders.
    """

    def __init__(self, table: WindowTable, seed: Sequence[int], epoch: int, shards_per_group: int):
        self._seed = (*seed, epoch)
        random = np.random.default_rng(self._seed)
        shards = random.permutation(len(table.shard_starts) - 1)
        self.offset = int(random.integers(table.context))
        self._groups = [shards[at : at + shards_per_group] for at in range(0, len(shards), shards_per_group)]
        sizes = np.diff(table.shard_starts)
        self._group_ends = np.cumsum([sizes[group].sum() for group in self._groups])
        self._table = table
        self._group_order = lru_cache(maxsize=2)(self._shuffle_group)

    def window_at(self, index: int) -> int:
        """Return the window of the table at position `index` of the epoch."""
        group = self._group_of(index)
        begin = int(self._group_ends[group - 1]) if group else 0
        return int(self._group_order(group)[index - begin])

    def group_at(self, index: int) -> tuple[np.ndarray, int]:
        """Return the group of shards (as in `shard_starts`) of the window at `index`, and the position of its end."""
        group = self._group_of(index)
        return self._groups[group], int(self._group_ends[group])

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self._group_ends, index, side="right"))

    def _shuffle_group(self, group: int) -> np.ndarray:
        starts = self._table.shard_starts
        windows = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in self._groups[group]])
        return np.random.default_rng((*self._seed, group)).permutation(windows)
