"""Adapters of other loaders to the same shards, one per library.

Each yields what our stream does: batches of windows cut from whole samples. `prepare` converts WebDataset tars to the
library's format; `batches` iterates over that `epochs` times, shuffled as is usual for the library, in this process or
in `workers` processes.
"""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_start_method
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from whisper_gpt.pipeline.loading.sequential import pad

CONTEXT = 750  # frames per window: 10 s
BATCH = 16
_SHUFFLE_BUFFER = 1000  # samples; the value in the examples of webdataset's and Hugging Face's guides
_NAMES = ("codes.npy", "mel.npy")

Window = tuple[np.ndarray, np.ndarray]  # codes int16 [K, T], mel float16 [T, M]
Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # codes int64 [B, K, T], mel float32 [B, T, M], mask [B, T]


@dataclass(frozen=True)
class Rival:
    """A library: its module, the function that converts tars to its format in a folder, and its loader."""

    module: str
    prepare: Callable[[Sequence[Path], Path], Any]
    batches: Callable[[Any, int, int], Iterable[Tensors]]

    def installed(self) -> bool:
        """Return whether the library can be imported."""
        try:
            return importlib.util.find_spec(self.module) is not None
        except ModuleNotFoundError:  # the parent package is missing
            return False


def windows_of(codes: np.ndarray, mel: np.ndarray) -> Iterator[Window]:
    """Cut a sample's codes `[K, T]` and mel `[T, M]` into windows of at most `CONTEXT` frames."""
    for start in range(0, len(mel), CONTEXT):
        yield codes[:, start : start + CONTEXT], mel[start : start + CONTEXT]


class WindowBatches(IterableDataset[Tensors]):
    """Batches of windows from a dataset's samples; in a DataLoader worker, from that worker's share."""

    def __init__(self, samples: Iterable[Any], names: tuple[str, str]):
        super().__init__()
        self._samples = samples
        self._names = names

    def __iter__(self) -> Iterator[Tensors]:
        codes, mel = self._names
        windows = chain.from_iterable(windows_of(sample[codes], sample[mel]) for sample in self._samples)
        while batch := list(islice(windows, BATCH)):
            yield pad(batch)


def _tars(tars: Sequence[Path], folder: Path) -> list[str]:
    return [str(tar) for tar in tars]


def _webdataset(tars: list[str], workers: int, epochs: int) -> Iterable[Tensors]:
    import webdataset as wds

    pipeline = wds.WebDataset(
        tars,
        shardshuffle=100,
        seed=0,
        select_files=lambda name: name.endswith(_NAMES),
        empty_check=False,  # a worker may get no tar
    )
    pipeline = pipeline.shuffle(_SHUFFLE_BUFFER).decode().to_tuple(*_NAMES)
    pipeline = pipeline.compose(lambda samples: chain.from_iterable(windows_of(*sample) for sample in samples))
    pipeline = pipeline.batched(BATCH, collation_fn=pad).repeat(nepochs=epochs)
    return wds.WebLoader(pipeline, batch_size=None, num_workers=workers)


def _hugging_face(tars: list[str], workers: int, epochs: int) -> Iterable[Tensors]:
    import datasets

    # Declare 2-D arrays: by default they become lists, and with_format("numpy") converts those back.
    features = datasets.Features(
        {"codes.npy": datasets.Array2D((None, None), "int16"), "mel.npy": datasets.Array2D((None, None), "float16")}
    )
    samples = datasets.load_dataset(
        "webdataset", data_files={"train": tars}, features=features, split="train", streaming=True
    )
    samples = samples.shuffle(seed=0, buffer_size=_SHUFFLE_BUFFER).repeat(epochs)
    return DataLoader(WindowBatches(samples, _NAMES), batch_size=None, num_workers=workers)


def _samples(tars: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    """Yield the samples of tars, for libraries with another format."""
    import webdataset as wds

    for sample in wds.WebDataset(list(tars), shardshuffle=False, empty_check=False).decode():
        yield {name.removesuffix(".npy"): sample[name] for name in _NAMES}


def _litdata_samples(tar: str) -> Iterator[dict[str, np.ndarray]]:
    yield from _samples([tar])


def _prepare_litdata(tars: Sequence[Path], folder: Path) -> str:
    import litdata

    litdata.optimize(
        _litdata_samples,
        _tars(tars, folder),
        str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        start_method=get_start_method(),
    )
    return str(folder)


def _litdata(folder: str, workers: int, epochs: int) -> Iterable[Tensors]:
    import litdata

    class Windows(litdata.StreamingDataset):
        """Yields windows instead of samples, so that the loader batches windows."""

        def __iter__(self) -> Iterator[Window]:
            super().__iter__()
            for sample in iter(super().__next__, None):
                yield from windows_of(sample["codes"], sample["mel"])

    loader = litdata.StreamingDataLoader(
        Windows(folder, shuffle=True, seed=0),
        batch_size=BATCH,
        collate_fn=pad,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    return chain.from_iterable(loader for _ in range(epochs))


def _prepare_mosaic(tars: Sequence[Path], folder: Path) -> str:
    from streaming import MDSWriter

    columns = {"codes": "ndarray:int16", "mel": "ndarray:float16"}
    with MDSWriter(out=str(folder), columns=columns) as writer:
        for sample in _samples(_tars(tars, folder)):
            writer.write(sample)
    return str(folder)


def _mosaic(folder: str, workers: int, epochs: int) -> Iterable[Tensors]:
    from streaming import StreamingDataset

    samples = StreamingDataset(local=folder, shuffle=True, shuffle_seed=0, batch_size=BATCH)
    batches = WindowBatches(samples, ("codes", "mel"))
    loader = DataLoader(batches, batch_size=None, num_workers=workers, persistent_workers=workers > 0)
    return chain.from_iterable(loader for _ in range(epochs))


def _prepare_energon(tars: Sequence[Path], folder: Path) -> Path:
    from megatron.energon.flavors.webdataset.prepare import WebdatasetPreparator

    for tar in tars:
        (folder / tar.name).symlink_to(tar.absolute())
    names = [tar.name for tar in tars]
    WebdatasetPreparator.prepare_dataset(folder, names, split_parts_ratio=[("train", 1.0)], workers=1)
    (folder / ".nv-meta" / "dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\npart_filter: [codes.npy, mel.npy]\n"
    )
    return folder


def _energon(folder: Path, workers: int, epochs: int) -> Iterable[Tensors]:
    from megatron import energon

    @energon.stateless
    def keep(sample: dict) -> dict:
        return sample

    class Encoder(energon.DefaultTaskEncoder):
        """Cuts samples into windows, and batches these."""

        cookers = (energon.Cooker(keep),)

        @energon.stateless
        def encode_sample(self, sample: dict) -> Iterator[dict]:
            for codes, mel in windows_of(sample["codes.npy"], sample["mel.npy"]):
                yield {"__restore_key__": sample["__restore_key__"], "window": (codes, mel)}

        @energon.stateless
        def batch(self, samples: list[dict]) -> Tensors:
            return pad([sample["window"] for sample in samples])

    dataset = energon.get_train_dataset(
        folder,
        worker_config=energon.WorkerConfig(rank=0, world_size=1, num_workers=workers),
        batch_size=BATCH,
        shuffle_buffer_size=100,
        max_samples_per_sequence=100,
        task_encoder=Encoder(),
        repeat=epochs > 1,  # endlessly
    )
    return energon.get_loader(dataset)


RIVALS = {
    "webdataset": Rival("webdataset", _tars, _webdataset),
    "datasets": Rival("datasets", _tars, _hugging_face),
    "litdata": Rival("litdata", _prepare_litdata, _litdata),
    "mosaicml-streaming": Rival("streaming", _prepare_mosaic, _mosaic),
    "megatron-energon": Rival("megatron.energon", _prepare_energon, _energon),
}
