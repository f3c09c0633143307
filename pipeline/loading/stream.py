"""Batches from datasets' shards: a torchdata.nodes graph whose whole state is one number.

`WindowOrder` says which windows, `FetchAhead` has the shards of object stores fetched before their turn, `BatchReader`
cuts the windows out, and a prefetcher does that a few batches ahead of the training step.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torchdata.nodes import BaseNode, Mapper, Prefetcher

from whisper_gpt.manifests.dataset_info import DatasetInfo, differences, read_info
from whisper_gpt.manifests.location import Location, is_remote, location
from whisper_gpt.manifests.splits import read_split
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch, BatchReader, Damage
from whisper_gpt.pipeline.loading.mixture import Mixture
from whisper_gpt.pipeline.loading.order import EpochOrder, WindowTable, cut_windows
from whisper_gpt.pipeline.loading.shard_cache import ShardCache, default_cache_folder
from whisper_gpt.pipeline.loading.shard_reader import COLUMNS, ShardReader

_PREFETCHED_BATCHES = 2
_FETCHING_SHARDS = 4

Datasets = Location | str | Sequence[tuple[Location | str, float]]
Window = tuple[int, int, int]  # a dataset, counted from 0, a window of its table, and the offset of the cuts


@dataclass(frozen=True)
class StreamConfig:
    """Which windows come in which batch. `shuffle` gives an endless stream of epochs, else one pass in order.

    A sample longer than `context` frames is cut; what is shorter stands alone and is padded, or with `pack` windows
    are filled with the samples of a shard one after another. `max_damaged` samples may be unreadable and are left out.
    """

    context: int  # frames
    batch: int  # windows a rank
    seed: int = 0
    shuffle: bool = True
    pack: bool = False
    view: str | None = None  # of the mel; the one that each sample holds as its mel where None
    shards_per_group: int = 16
    rank: int = 0
    world: int = 1
    max_damaged: int = 0
    cache_folder: Path | None = None  # of remote shards; the user's own where None
    cache_gb: float = 20.0


class Stream(BaseNode[Batch]):
    """The end of the graph: batches, `state_dict()`, `reset(state)`; `damaged`: samples left out so far, and why.

    Raises the errors that come through the prefetcher as items, where the batch is asked for: one raised inside its
    thread would come out with its whole traceback for a message.
    """

    def __init__(self, source: Prefetcher[Batch | Exception], damage: Damage, samples_sha256: Sequence[str] = ()):
        super().__init__()
        self.samples_sha256 = samples_sha256  # of each dataset: what a place in the stream depends on
        self._source = source
        self.damaged = damage.samples
        self._finalizer = weakref.finalize(self, _stop_thread, source)

    def close(self) -> None:
        """End the thread that reads ahead; happens by itself where nothing refers to the stream any more."""
        self._finalizer()

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._source.reset(initial_state)

    def next(self) -> Batch:
        item = next(self._source)
        if isinstance(item, Exception):
            raise item
        # Widened here and not in the thread, which so has half as many bytes to hand over, and time to read ahead.
        return replace(item, codes=item.codes.long(), mel=item.mel.float())

    def get_state(self) -> dict[str, Any]:
        return self._source.state_dict()


def stream(datasets: Datasets, split: str, config: StreamConfig) -> Stream:
    """Batches of one split of a dataset, or of several, each with its weight: the share of windows it gives.

    The stream's place is the number of windows that all ranks together have taken: `reset(state)` continues exactly
    there, on any number of ranks. In a mixture each dataset goes through epochs of its own.
    Raises `ManifestError` for a dataset that is not one, `PipelineError` for datasets that do not belong together.
    """
    weighted = [(datasets, 1.0)] if isinstance(datasets, Location | str) else list(datasets)
    places = [location(dataset) for dataset, _ in weighted]
    infos = [read_info(place) for place in places]
    for place, info in zip(places, infos, strict=True):
        require_like(infos[0], info, places[0], place)
    cache = _cache(config) if any(is_remote(place) for place in places) else None
    views = infos[0].mel["views"]
    view = view_index(views, config.view, places[0])
    readers = [
        ShardReader(place, read_split(place, info, split, COLUMNS), cache, view, len(views))
        for place, info in zip(places, infos, strict=True)
    ]
    tables = [cut_windows(reader.frames, reader.shard_of, config.context, config.pack) for reader in readers]
    windows = WindowOrder(tables, [weight for _, weight in weighted], config)
    order = FetchAhead(windows, lambda dataset, shard: readers[dataset].fetch(shard)) if cache else windows
    damage = Damage(config.max_damaged)
    reader = BatchReader(list(zip(tables, readers, strict=True)), infos[0].codec["codebook_size"], config.pack, damage)
    read = Mapper(order, lambda chosen: _read_or_error(reader, chosen))
    samples = [reader.samples_sha256() for reader in readers]
    return Stream(Prefetcher(read, prefetch_factor=_PREFETCHED_BATCHES), damage, samples)


def view_index(views: Sequence[str], view: str | None, place: Location) -> int:
    """The place of `view` among those of a dataset; of the first where it is None. Raises `PipelineError`."""
    if view is None:
        return 0
    if view not in views:
        raise PipelineError(f"{place} has no mel of {view}, but of {', '.join(views)}; see preprocess --mel-of")
    return views.index(view)


def require_like(info: DatasetInfo, other: DatasetInfo, place: Location, other_place: Location) -> None:
    """Raise `PipelineError`, naming what differs, where two datasets do not hold the same kind of codes and mel."""
    if info.fingerprint != other.fingerprint:
        what = "; ".join(differences(info.codec, info.mel, other.codec, other.mel))
        raise PipelineError(f"{place} and {other_place} cannot be mixed: {what}")


class WindowOrder(BaseNode[list[Window]]):
    """The windows of each batch.

    State: `position`, the windows that all ranks together have taken. Rank r takes the r-th batch from there.
    """

    def __init__(self, tables: Sequence[WindowTable], weights: Sequence[float], config: StreamConfig):
        super().__init__()
        self._tables = tables
        self._config = config
        self._mixture = Mixture(weights, config.seed)
        self._ends = np.cumsum([len(table) for table in tables])
        self._position = 0
        self._epoch = lru_cache(maxsize=2 * len(tables))(self._epoch_order)

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._position = initial_state["position"] if initial_state else 0

    def next(self) -> list[Window]:
        c = self._config
        begin = self._position + c.rank * c.batch
        end = begin + c.batch if c.shuffle else min(begin + c.batch, int(self._ends[-1]))
        if end <= begin:
            raise StopIteration
        self._position += c.batch * c.world
        return [self._window(slot) for slot in range(begin, end)]

    def get_state(self) -> dict[str, Any]:
        return {"position": self._position}

    def shards_ahead(self) -> list[tuple[int, int]]:
        """The shards that the next windows come from, each a dataset and a shard of it, in the order of their turn."""
        if not self._config.shuffle:
            return self._shards_in_order()
        ahead = []
        for dataset, taken in enumerate(self._mixture.taken(self._position)):
            for _ in range(2):  # the group of shards that is being read, and the next
                epoch, index = divmod(taken, len(self._tables[dataset]))
                shards, end = self._epoch(dataset, epoch).group_at(index)
                ahead += [(dataset, int(shard)) for shard in shards]
                taken += end - index
        return ahead

    def _shards_in_order(self) -> list[tuple[int, int]]:
        if self._position >= self._ends[-1]:
            return []
        dataset, window, _ = self._window(self._position)
        starts = self._tables[dataset].shard_starts
        shard = int(np.searchsorted(starts, window, side="right")) - 1
        return [(dataset, ahead) for ahead in range(shard, min(shard + _FETCHING_SHARDS, len(starts) - 1))]

    def _window(self, slot: int) -> Window:
        if not self._config.shuffle:  # one dataset after another
            dataset = int(np.searchsorted(self._ends, slot, side="right"))
            return dataset, slot - int(self._ends[dataset]) + len(self._tables[dataset]), 0
        dataset, taken = self._mixture.place(slot)
        epoch, index = divmod(taken, len(self._tables[dataset]))
        order = self._epoch(dataset, epoch)
        return dataset, order.window_at(index), order.offset

    def _epoch_order(self, dataset: int, epoch: int) -> EpochOrder:
        return EpochOrder(self._tables[dataset], (self._config.seed, dataset), epoch, self._config.shards_per_group)


class FetchAhead(BaseNode[list[Window]]):
    """Passes windows on, and has the shards of those that come later brought into the cache meanwhile.

    What goes wrong is raised where the shard is read. State: that of the order.
    """

    def __init__(self, order: WindowOrder, fetch: Callable[[int, int], None]):
        super().__init__()
        self._order = order
        self._fetch = fetch
        self._asked: set[tuple[int, int]] = set()
        self._running: list[Future[None]] = []  # no more than there are threads: a program that ends waits for them
        self._pool = ThreadPoolExecutor(_FETCHING_SHARDS, "fetch-ahead")

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._order.reset(initial_state)

    def next(self) -> list[Window]:
        windows = next(self._order)
        ahead = self._order.shards_ahead()
        self._running = [future for future in self._running if not future.done()]
        self._asked &= set(ahead)
        for shard in ahead:
            if shard not in self._asked and len(self._running) < _FETCHING_SHARDS:
                self._running.append(self._pool.submit(self._fetch, *shard))
                self._asked.add(shard)
        return windows

    def get_state(self) -> dict[str, Any]:
        return self._order.state_dict()


def batches(node: BaseNode[Batch]) -> Iterator[Batch]:
    """The node's batches from its start, as a plain iterator."""
    node.reset(None)
    yield from node


def whole_split(
    dataset: Location | str, split: str, context: int, batch: int, view: str | None = None
) -> Iterator[Batch]:
    """Every frame of a split once, in order, in windows that hold one sample each; as `stream`."""
    return batches(stream(dataset, split, StreamConfig(context, batch, shuffle=False, view=view)))


def _stop_thread(prefetcher: Prefetcher) -> None:
    """End the prefetcher's thread; one that still reads when the interpreter ends brings the process down (SIGABRT)."""
    if prefetcher._it is not None:  # which torchdata 0.11 has no public way to end
        prefetcher._it._shutdown()


def _cache(config: StreamConfig) -> ShardCache:
    return ShardCache(config.cache_folder or default_cache_folder(), round(config.cache_gb * 1e9))


def _read_or_error(reader: BatchReader, windows: list[Window]) -> Batch | Exception:
    try:
        return reader.read(windows)
    except Exception as error:  # of an object store's client, too
        return error
