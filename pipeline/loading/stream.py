"""Stream batches from the shards of datasets: a torchdata.nodes graph whose whole state is one number.

`WindowOrder` chooses the windows, `FetchAhead` fetches shards of object stores ahead of time, `BatchReader` reads the
windows, and a prefetcher runs a few batches ahead of the training step.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import get_worker_info
from torchdata.nodes import BaseNode, Mapper, Prefetcher

from whisper_gpt.manifests.dataset_info import DatasetInfo, differences, read_info
from whisper_gpt.manifests.index import read_index
from whisper_gpt.manifests.location import Location, is_remote, location
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch, BatchReader, Damage
from whisper_gpt.pipeline.loading.mixture import Mixture
from whisper_gpt.pipeline.loading.order import EpochOrder, WindowTable, cut_windows
from whisper_gpt.pipeline.loading.shard_cache import ShardCache, default_cache_folder
from whisper_gpt.pipeline.loading.shard_reader import ShardReader

_PREFETCHED_BATCHES = 2
_FETCHING_SHARDS = 4

Datasets = Location | str | Sequence[tuple[Location | str, float]]
Window = tuple[int, int, int]  # dataset index, window index in its table, offset of the cuts


@dataclass(frozen=True)
class StreamConfig:
    """How windows are cut, ordered and batched. `shuffle` gives an endless stream of epochs, else one pass in order.

    Samples longer than `context` frames are cut; shorter ones are padded or, with `pack`, windows are filled with the
    consecutive samples of a shard. Up to `max_damaged` samples may be unreadable; they are left out.
    """

    context: int  # frames
    batch: int  # windows per rank
    seed: int = 0
    shuffle: bool = True
    pack: bool = False
    mel_variant: str | None = None  # None: the first, which is each sample's `mel`
    shards_per_group: int = 16
    rank: int = 0
    world_size: int = 1
    max_damaged: int = 0
    cache_folder: Path | None = None  # for remote shards; None: `default_cache_folder()`
    cache_gb: float = 20.0
    pad: bool = False  # batches have `context` frames, however short their windows: one shape for compiled code
    narrow: bool = False  # codes stay int16 and mel float16, as stored; `Batch.to` widens them on the device
    pin: bool = False  # narrow batches are in pinned memory, for copies to a GPU

    def __post_init__(self) -> None:
        if self.pin and not self.narrow:
            raise PipelineError("only narrow batches are pinned: pass narrow, and widen them on the GPU by Batch.to")


class Stream(BaseNode[Batch]):
    """The last node of the graph: batches, `state_dict()`, `reset(state)`; `damaged`: samples left out, with reasons.

    A stream can be pickled: the process that unpickles it reopens the datasets and continues at the same position. With
    several DataLoader workers, open one stream per worker, each with its own rank; `PipelineError` is raised if they
    would read the same windows.

    Errors pass through the prefetcher as items and are raised when the batch is requested: an error raised in the
    prefetcher's thread would arrive with its whole traceback as its message.
    """

    def __init__(
        self,
        source: Prefetcher[Batch | Exception],
        damage: Damage,
        samples_sha256: Sequence[str],
        opened_with: tuple[Datasets, str, StreamConfig],
    ):
        super().__init__()
        self._opened_with = opened_with
        self.samples_sha256 = samples_sha256  # per dataset: hash of what a position in the stream depends on
        self._source = source
        self.damaged = damage.samples
        self._finalizer = weakref.finalize(self, _stop_thread, source)

    def __reduce__(self) -> tuple:
        return _stream_at, (*self._opened_with, self.state_dict())

    def close(self) -> None:
        """Stop the prefetch thread; also happens when the stream is garbage-collected."""
        self._finalizer()

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        worker = get_worker_info()
        if worker is not None and worker.num_workers > self._opened_with[2].world_size:
            raise PipelineError(
                f"{worker.num_workers} DataLoader workers would read the same windows; open a stream in each, with its "
                "rank of world_size (StreamConfig)"
            )
        self._source.reset(initial_state)

    def next(self) -> Batch:
        item = next(self._source)
        if isinstance(item, Exception):
            raise item
        if self._opened_with[2].narrow:
            return item
        # Converted here, not in the thread: it then hands over half as many bytes, and has more time to read ahead.
        return replace(item, codes=item.codes.long(), mel=item.mel.float())

    def get_state(self) -> dict[str, Any]:
        return self._source.state_dict()


def stream(datasets: Datasets, split: str, config: StreamConfig) -> Stream:
    """Stream one split of a dataset, or of several with weights: the weight is a dataset's share of the windows.

    The stream's position is the number of windows that all ranks together have taken: `reset(state)` resumes exactly
    there, on any number of ranks. In a mixture each dataset has its own epochs. Raises `ManifestError` if a folder is
    not a dataset, and `PipelineError` if the datasets cannot be mixed.
    """
    tables, readers, codebook_size = open_split(datasets, split, config)
    windows = WindowOrder(tables, [weight for _, weight in _weighted(datasets)], config)
    remote = any(reader.is_remote for reader in readers)
    order = FetchAhead(windows, lambda dataset, shard: readers[dataset].fetch(shard)) if remote else windows
    damage, full = Damage(config.max_damaged), config.context if config.pad else None
    reader = BatchReader(list(zip(tables, readers, strict=True)), codebook_size, config.pack, damage, full)
    read = Mapper(order, lambda windows: _read_or_error(reader, windows, config.pin))
    samples = [reader.samples_sha256() for reader in readers]
    source = Prefetcher(read, prefetch_factor=_PREFETCHED_BATCHES)
    return Stream(source, damage, samples, (datasets, split, config))


def open_split(
    datasets: Datasets, split: str, config: StreamConfig
) -> tuple[list[WindowTable], list[ShardReader], int]:
    """Return the windows and the reader of each dataset, and the size of their codebooks; nothing is read yet.

    Raises as `stream` does.
    """
    folders = [location(dataset) for dataset, _ in _weighted(datasets)]
    infos = [read_info(folder) for folder in folders]
    for folder, info in zip(folders, infos, strict=True):
        require_like(infos[0], info, folders[0], folder)
    cache = _cache(config) if any(is_remote(folder) for folder in folders) else None
    variants = infos[0].mel["variants"]
    variant = mel_variant_index(variants, config.mel_variant, folders[0])
    readers = [
        ShardReader(folder, read_index(folder, info, split), cache, variant, len(variants))
        for folder, info in zip(folders, infos, strict=True)
    ]
    tables = [cut_windows(reader.frames, reader.shard_of, config.context, config.pack) for reader in readers]
    return tables, readers, infos[0].codec["codebook_size"]


def _weighted(datasets: Datasets) -> Sequence[tuple[Location | str, float]]:
    return [(datasets, 1.0)] if isinstance(datasets, Location | str) else datasets


def _stream_at(datasets: Datasets, split: str, config: StreamConfig, state: dict[str, Any]) -> Stream:
    opened = stream(datasets, split, config)
    opened.reset(state)
    return opened


def mel_variant_index(variants: Sequence[str], variant: str | None, dataset: Location) -> int:
    """Return the index of `variant` among a dataset's mel variants (0 for None). Raises `PipelineError` if missing."""
    if variant is None:
        return 0
    if variant not in variants:
        available = ", ".join(variants)
        raise PipelineError(f"{dataset} has no mel variant {variant}, only {available}; see preprocess --mel-of")
    return variants.index(variant)


def require_like(info: DatasetInfo, other: DatasetInfo, dataset: Location, other_dataset: Location) -> None:
    """Raise `PipelineError` with the differences if two datasets have different kinds of codes or mel."""
    if info.fingerprint != other.fingerprint:
        different = "; ".join(differences(info.codec, info.mel, other.codec, other.mel))
        raise PipelineError(f"{dataset} and {other_dataset} cannot be mixed: {different}")


class WindowOrder(BaseNode[list[Window]]):
    """Yields the windows of each batch.

    Its state is `position`, the number of windows that all ranks together have taken. Rank r takes the r-th batch from
    there.
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
        self._position += c.batch * c.world_size
        return [self._window(slot) for slot in range(begin, end)]

    def get_state(self) -> dict[str, Any]:
        return {"position": self._position}

    def shards_ahead(self) -> list[tuple[int, int]]:
        """Return the shards of the next windows in order, each as (dataset index, shard index)."""
        if not self._config.shuffle:
            return self._shards_in_order()
        ahead = []
        for dataset, taken in enumerate(self._mixture.taken(self._position)):
            for _ in range(2):  # the current group of shards, and the next
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
    """Passes windows through, and meanwhile fetches the shards of later ones into the cache.

    Errors of fetching are raised when the shard is read. Its state is that of the order.
    """

    def __init__(self, order: WindowOrder, fetch: Callable[[int, int], None]):
        super().__init__()
        self._order = order
        self._fetch = fetch
        self._requested: set[tuple[int, int]] = set()
        self._running: list[Future[None]] = []  # at most one per thread: a program waits for all of them when it ends
        self._pool = ThreadPoolExecutor(_FETCHING_SHARDS, "fetch-ahead")

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self._order.reset(initial_state)

    def next(self) -> list[Window]:
        windows = next(self._order)
        ahead = self._order.shards_ahead()
        self._running = [future for future in self._running if not future.done()]
        self._requested &= set(ahead)
        for shard in ahead:
            if shard not in self._requested and len(self._running) < _FETCHING_SHARDS:
                self._running.append(self._pool.submit(self._fetch, *shard))
                self._requested.add(shard)
        return windows

    def get_state(self) -> dict[str, Any]:
        return self._order.state_dict()


def batches(node: BaseNode[Batch]) -> Iterator[Batch]:
    """Yield the node's batches from its start."""
    node.reset(None)
    yield from node


def whole_split(
    dataset: Location | str, split: str, context: int, batch: int, mel_variant: str | None = None
) -> Iterator[Batch]:
    """Yield every frame of a split once, in order, in windows of one sample each. Raises as `stream` does."""
    return batches(stream(dataset, split, StreamConfig(context, batch, shuffle=False, mel_variant=mel_variant)))


def _stop_thread(prefetcher: Prefetcher) -> None:
    """Stop the prefetcher's thread: if it still reads when the interpreter exits, the process aborts (SIGABRT)."""
    if prefetcher._it is not None:  # torchdata 0.11 has no public way to stop it
        prefetcher._it._shutdown()


def _cache(config: StreamConfig) -> ShardCache:
    return ShardCache(config.cache_folder or default_cache_folder(), round(config.cache_gb * 1e9))


def _read_or_error(reader: BatchReader, windows: list[Window], pin: bool) -> Batch | Exception:
    try:
        batch = reader.read(windows)
        return batch.pinned() if pin else batch
    except Exception as error:  # includes those of an object store's client
        return error
