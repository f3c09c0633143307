"""The order of training windows as arithmetic: a pure function of (seed, epoch), so that a position is all its state.

An epoch visits every window once: shards in a random order, windows shuffled within a group of neighbouring shards, so
that reads stay local however large the corpus is. Nothing is buffered and nothing needs replaying: the window at
position p of the endless sequence of epochs is computed from p alone.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class WindowTable:
    """Windows of at most `context` frames that cover every sample once; int64 arrays, grouped by shard.

    A window is one or more pieces: piece p takes `frames[p]` frames from frame `start[p]` of row `sample[p]` of the
    manifest. Window w has the pieces `window_starts[w]` to `window_starts[w + 1]`, shard s the windows
    `shard_starts[s]` to `shard_starts[s + 1]`.
    """

    sample: np.ndarray  # [P]
    start: np.ndarray  # [P]
    frames: np.ndarray  # [P]
    window_starts: np.ndarray  # [W + 1]
    shard_starts: np.ndarray  # [S + 1]

    def __len__(self) -> int:
        return len(self.window_starts) - 1

    def pieces(self, window: int) -> range:
        """The pieces of a window."""
        return range(self.window_starts[window], self.window_starts[window + 1])


def cut_windows(sample_frames: np.ndarray, sample_shards: np.ndarray, context: int, pack: bool = False) -> WindowTable:
    """Cut samples of `sample_frames` `[N]` frames (at least one), in the order of their shards `[N]`, into windows.

    Each sample by itself, every `context` frames; or, to `pack`, all samples of a shard laid end to end.
    """
    if context < 1:
        raise ValueError(f"a context of {context} frames")
    ends = np.cumsum(sample_frames)
    total, begins = (int(ends[-1]) if len(ends) else 0), ends - sample_frames  # on one line of all samples
    new_shard = np.flatnonzero(np.append(True, sample_shards[1:] != sample_shards[:-1])[: len(begins)])
    line_begins = begins[new_shard] if pack else begins  # of what is cut every `context` frames
    lengths = np.diff(np.append(line_begins, total))
    cuts_per_line = -(-lengths // context)
    first_cut = np.repeat(np.cumsum(cuts_per_line) - cuts_per_line, cuts_per_line)
    cuts = np.repeat(line_begins, cuts_per_line) + (np.arange(len(first_cut)) - first_cut) * context
    pieces = np.sort(np.concatenate((cuts, begins)), kind="stable")  # two sorted runs; np.union1d would hash them
    pieces = pieces[np.append(True, pieces[1:] != pieces[:-1])[: len(pieces)]]
    sample = np.searchsorted(begins, pieces, side="right") - 1
    return WindowTable(
        sample=sample,
        start=pieces - begins[sample],
        frames=np.diff(np.append(pieces, total)),
        window_starts=np.append(np.searchsorted(pieces, cuts), len(pieces)),
        shard_starts=np.append(np.searchsorted(cuts, begins[new_shard]), len(cuts)),
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
