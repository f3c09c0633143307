"""Batches from a dataset's shards: a torchdata.nodes graph whose whole state is one number.

`WindowOrder` says which windows, `ShardReader` cuts them out of memory-mapped tars by the offsets in the manifest, and
a prefetcher does that one thread ahead of the training step.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torchdata.nodes import BaseNode, Mapper, Prefetcher

from manifests.location import Location, is_remote
from pipeline.errors import PipelineError
from pipeline.order import EpochOrder, WindowTable, cut_windows
from pipeline.sample import npy_view
from pipeline.shards import shard_path

_OPEN_SHARDS = 64
_PREFETCHED_BATCHES = 2


@dataclass(frozen=True)
class StreamConfig:
    """Which windows come in which batch. `shuffle` gives an endless stream of epochs, else one pass in order."""

    context: int  # frames
    batch: int  # windows a rank
    seed: int = 0
    shuffle: bool = True
    shards_per_group: int = 16
    rank: int = 0
    world: int = 1


@dataclass(frozen=True)
class Batch:
    """Windows padded on the right to one length: `codes` int64 `[B, K, T]`, `mel` float32 `[B, T, M]`, `mask` bool
    `[B, T]` (False where padded), and the sample's `keys` and the windows' `starts` in frames, `[B]`."""

    codes: torch.Tensor
    mel: torch.Tensor
    mask: torch.Tensor
    keys: list[str]
    starts: list[int]


def stream(dataset: Path, samples: pa.Table, config: StreamConfig) -> BaseNode[Batch]:
    """Batches of the manifest rows `samples` (one split, in manifest order) from the shards of `dataset`.

    An iterator with `state_dict()`; `reset(state)` continues exactly there, on any number of ranks.
    Raises `PipelineError` where there is nothing to read.
    """
    if samples.num_rows == 0:
        raise PipelineError(f"{dataset}: no samples in that split; whisper-gpt inspect {dataset} says what there is")
    frames = samples["frames"].to_numpy().astype(np.int64)
    table = cut_windows(frames, samples["shard"].to_pylist(), config.context)
    reader = ShardReader(dataset, samples, table)
    read = Mapper(WindowOrder(table, config), reader.read_batch_or_error)
    return RaiseErrors(Prefetcher(read, prefetch_factor=_PREFETCHED_BATCHES))


class WindowOrder(BaseNode[list[int]]):
    """The windows of each batch, by row of the window table.

    State: `position`, the windows that all ranks together have taken. Rank r takes the r-th batch from there.
    """

    def __init__(self, table: WindowTable, config: StreamConfig):
        super().__init__()
        self._table = table
        self._config = config
        self._position = 0
        self._epoch = lru_cache(maxsize=2)(lambda epoch: EpochOrder(table, config.seed, epoch, config.shards_per_group))

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._position = initial_state["position"] if initial_state else 0

    def next(self) -> list[int]:
        c, windows = self._config, len(self._table)
        begin = self._position + c.rank * c.batch
        end = begin + c.batch if c.shuffle else min(begin + c.batch, windows)
        if end <= begin:
            raise StopIteration
        self._position += c.batch * c.world
        if not c.shuffle:
            return list(range(begin, end))
        return [self._epoch(p // windows).window_at(p % windows) for p in range(begin, end)]

    def get_state(self) -> dict[str, Any]:
        return {"position": self._position}


class RaiseErrors(BaseNode[Batch]):
    """Raises the errors that come through the prefetcher as items, where the batch is asked for.

    An error raised inside the prefetcher's thread would come out with its whole traceback for a message.
    """

    def __init__(self, source: BaseNode[Batch | PipelineError]):
        super().__init__()
        self._source = source

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._source.reset(initial_state)

    def next(self) -> Batch:
        item = next(self._source)
        if isinstance(item, PipelineError):
            raise item
        return item

    def get_state(self) -> dict[str, Any]:
        return self._source.state_dict()


class ShardReader:
    """Cuts windows out of memory-mapped shards; only the bytes of a window are touched."""

    def __init__(self, dataset: Location, samples: pa.Table, table: WindowTable):
        self._dataset = dataset
        self._table = table
        self._columns = {
            name: samples[name].to_numpy(zero_copy_only=False)
            for name in ("key", "split", "shard", "codes_offset", "codes_size", "mel_offset", "mel_size")
        }
        self._open = lru_cache(maxsize=_OPEN_SHARDS)(self._map_shard)

    def read_batch_or_error(self, windows: list[int]) -> Batch | PipelineError:
        """`read_batch`, with its error as the value."""
        try:
            return self.read_batch(windows)
        except PipelineError as error:
            return error

    def read_batch(self, windows: list[int]) -> Batch:
        """Read and pad the `windows`, rows of the window table. Raises `PipelineError` naming a damaged shard."""
        table, parts = self._table, [self._read_window(window) for window in windows]
        longest = max(mel.shape[0] for _, mel in parts)
        codes = np.zeros((len(parts), parts[0][0].shape[0], longest), np.int64)
        mel = np.zeros((len(parts), longest, parts[0][1].shape[1]), np.float32)
        mask = np.zeros((len(parts), longest), bool)
        for i, (window_codes, window_mel) in enumerate(parts):
            frames = window_mel.shape[0]
            codes[i, :, :frames], mel[i, :frames], mask[i, :frames] = window_codes, window_mel, True
        return Batch(
            codes=torch.from_numpy(codes),
            mel=torch.from_numpy(mel),
            mask=torch.from_numpy(mask),
            keys=[str(self._columns["key"][table.sample[w]]) for w in windows],
            starts=[int(table.start[w]) for w in windows],
        )

    def _read_window(self, window: int) -> tuple[np.ndarray, np.ndarray]:
        row, start = self._table.sample[window], self._table.start[window]
        end = start + self._table.frames[window]
        codes, mel = self._read_member(row, "codes"), self._read_member(row, "mel")
        return codes[:, start:end], mel[start:end]

    def _read_member(self, row: int, member: str) -> np.ndarray:
        columns = self._columns
        offset, size = int(columns[f"{member}_offset"][row]), int(columns[f"{member}_size"][row])
        data = self._open(columns["split"][row], columns["shard"][row])[offset : offset + size]
        try:
            return npy_view(data)
        except ValueError as error:
            raise PipelineError(
                f"{shard_path(self._dataset, columns['split'][row], columns['shard'][row])}: {member} of "
                f"{columns['key'][row]} cannot be read ({error}); run whisper-gpt verify {self._dataset}"
            ) from error

    def _map_shard(self, split: str, shard: str) -> memoryview:
        path = shard_path(self._dataset, split, shard)
        try:
            if is_remote(path):
                return memoryview(path.read_bytes())
            with path.open("rb") as file:
                return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, ValueError) as error:  # ValueError: the file is empty
            raise PipelineError(f"{path}: cannot be read ({error}); run whisper-gpt verify {self._dataset}") from error


def batches(node: BaseNode[Batch]) -> Iterator[Batch]:
    """The node's batches from its start, as a plain iterator."""
    node.reset(None)
    yield from node
