"""The order of training windows as arithmetic: a pure function of (seed, epoch), so that a position is all its state.

An epoch visits every window once: shards in a random order, windows shuffled within a group of neighbouring shards, so
that reads stay local however large the corpus is. Nothing is buffered and nothing needs replaying: the window at
position p of the endless sequence of epochs is computed from p alone.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

# Moved on with every change of what a position of a (seed, epoch) means: a run of another version cannot be resumed.
ORDER_VERSION = 2


class Piece(NamedTuple):
    """Part of a sample in a window: `frames` frames from frame `start` of row `sample` of the manifest."""

    sample: int
    start: int
    frames: int


@dataclass(frozen=True)
class WindowTable:
    """Windows of at most `context` frames that cover every sample once; int64 arrays, grouped by shard.

    Each sample is cut by itself or, with `pack`, all samples of a shard laid end to end. Shard s has the windows
    `shard_starts[s]` to `shard_starts[s + 1]`: their number does not depend on the offset that `pieces` moves the cuts
    by.
    """

    context: int
    pack: bool
    begins: np.ndarray  # [N + 1] of every sample, on one line of all samples; the last is the line's end
    shard_begins: np.ndarray  # [S + 1] of every shard's first sample, on the same line
    shard_starts: np.ndarray  # [S + 1]
    sample_starts: np.ndarray  # [N + 1] the windows of each sample without `pack`, as `shard_starts`

    def __len__(self) -> int:
        return int(self.shard_starts[-1])

    def pieces(self, window: int, offset: int = 0) -> list[Piece]:
        """The pieces of a window, if all cuts are moved by `offset` frames.

        A shard's line is a ring: its last window holds the end and, after it, what lies before the first cut. Of a
        sample cut by itself the first window becomes shorter.
        """
        if not self.pack:
            return [self._of_one_sample(window, offset)]
        shard = int(np.searchsorted(self.shard_starts, window, side="right")) - 1
        begin, end = int(self.shard_begins[shard]), int(self.shard_begins[shard + 1])
        length, before = end - begin, (window - int(self.shard_starts[shard])) * self.context
        first = begin + (before + offset) % length
        frames = min(self.context, length - before)
        until_end = min(frames, end - first)
        return [*self._on_line(first, first + until_end), *self._on_line(begin, begin + frames - until_end)]

    def _on_line(self, begin: int, end: int) -> Iterator[Piece]:
        sample = int(np.searchsorted(self.begins, begin, side="right")) - 1
        while begin < end:
            until = min(end, int(self.begins[sample + 1]))
            yield Piece(sample, begin - int(self.begins[sample]), until - begin)
            begin, sample = until, sample + 1

    def _of_one_sample(self, window: int, offset: int) -> Piece:
        sample = int(np.searchsorted(self.sample_starts, window, side="right")) - 1
        frames = int(self.begins[sample + 1] - self.begins[sample])
        shortest = frames % self.context or self.context  # a shorter first window would make one window more
        first = self.context - offset % (self.context - shortest + 1)
        end = first + (window - int(self.sample_starts[sample])) * self.context
        start = max(0, end - self.context)
        return Piece(sample, start, min(frames, end) - start)


def cut_windows(sample_frames: np.ndarray, sample_shards: np.ndarray, context: int, pack: bool = False) -> WindowTable:
    """Cut samples of `sample_frames` `[N]` frames (at least one), in the order of their shards `[N]`, into windows.

    Each sample by itself, every `context` frames; or, to `pack`, all samples of a shard laid end to end.
    """
    if context < 1:
        raise ValueError(f"a context of {context} frames")
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
    """The shuffled order of one epoch: `window_at(i)` for 0 ≤ i < number of windows, and the epoch's `offset` of cuts.

    `seed` is a sequence of numbers, so that the datasets of a mixture do not share their order.
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
        """The row of the window table that stands at `index`."""
        group = self._group_of(index)
        begin = int(self._group_ends[group - 1]) if group else 0
        return int(self._group_order(group)[index - begin])

    def group_at(self, index: int) -> tuple[np.ndarray, int]:
        """The shards (counted as in `shard_starts`) that the window at `index` is shuffled with, and where they end."""
        group = self._group_of(index)
        return self._groups[group], int(self._group_ends[group])

    def _group_of(self, index: int) -> int:
        return int(np.searchsorted(self._group_ends, index, side="right"))

    def _shuffle_group(self, group: int) -> np.ndarray:
        starts = self._table.shard_starts
        windows = np.concatenate([np.arange(starts[shard], starts[shard + 1]) for shard in self._groups[group]])
        return np.random.default_rng((*self._seed, group)).permutation(windows)
