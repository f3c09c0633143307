"""Batches from WebDataset tars without a manifest, read sequentially.

For datasets made by other tools, with the members `KEY.codes.npy` `[K, T]` and `KEY.mel.npy` `[T, M]`. Without a
manifest it has limits that `stream` does not have: see `sequential_stream`.
"""

import random
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
import webdataset as wds
from webdataset.shardlists import expand_urls
from webdataset.tariterators import group_by_keys, tar_file_expander

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch, Damage
from whisper_gpt.pipeline.shards.sample import npy_view

_MEMBERS = ("codes.npy", "mel.npy")
_CODES, _MEL = (np.uint8, np.int16, np.int32, np.int64), (np.float16, np.float32)
_BLOCK = 1 << 20

_Layout = tuple[int, int, str, str]  # K, M, and the dtypes of codes and mel


@dataclass(frozen=True)
class SequentialConfig:
    """How windows are cut, ordered and distributed. Samples longer than `context` frames are cut, others padded."""

    context: int  # frames
    batch: int  # windows
    shuffle: int = 0  # windows in the shuffle buffer; 0: no shuffling, tars in order
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    max_damaged: int = 0


@dataclass(frozen=True)
class Window:
    """A piece of one sample, from frame `start` on: integer `codes` `[K, T]` and float `mel` `[T, M]`."""

    key: str
    start: int
    codes: np.ndarray
    mel: np.ndarray


def sequential_stream(urls: str | Sequence[str], config: SequentialConfig) -> Iterator[Batch]:
    """Yield one pass over the tars at `urls`: paths, `pipe:` commands and http(s) URLs as in webdataset, with braces.

    Limits: windows are shuffled only within a buffer; there is no state, so an interrupted pass starts from the
    beginning; each rank takes every `world_size`-th tar, so ranks have different numbers of batches; a tar is read from
    its start, and one that is truncated between two samples is noticed only if the `pipe:` command fails. For another
    epoch call it with another seed; with a buffer this also shuffles the tars.

    Nothing is unpickled. A sample whose members are missing, unreadable or of different lengths is left out and logged.
    Raises `PipelineError` if there are more than `max_damaged` of them, or if a tar cannot be opened or read.
    """
    tars = [tar for url in ([urls] if isinstance(urls, str) else urls) for tar in expand_urls(url)]
    if config.shuffle:
        random.Random(config.seed).shuffle(tars)
    rank_tars = tars[config.rank :: config.world_size]
    if not rank_tars:
        raise PipelineError(
            f"{len(tars)} tars for {config.world_size} ranks: rank {config.rank} has none; use fewer ranks"
        )
    return _batches(rank_tars, config)


def pad(windows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pad codes `[K, T]` and mel `[T, M]` of windows (same dtypes in all) on the right with zeros.

    Return codes int64 `[B, K, T]`, mel float32 `[B, T, M]` and mask bool `[B, T]`.
    """
    (first_codes, first_mel), longest = windows[0], max(len(mel) for _, mel in windows)
    codes = np.empty((len(windows), len(first_codes), longest), first_codes.dtype)  # torch converts faster than NumPy
    mel = np.empty((len(windows), longest, first_mel.shape[1]), first_mel.dtype)
    mask = np.zeros((len(windows), longest), np.bool_)
    for i, (window_codes, window_mel) in enumerate(windows):
        frames = len(window_mel)
        codes[i, :, :frames], mel[i, :frames], mask[i, :frames] = window_codes, window_mel, True
        codes[i, :, frames:], mel[i, frames:] = 0, 0
    return torch.from_numpy(codes).long(), torch.from_numpy(mel).float(), torch.from_numpy(mask)


def _batches(tars: Sequence[str], config: SequentialConfig) -> Iterator[Batch]:
    windows: Iterator[Window] = _windows(tars, config.context, Damage(config.max_damaged))
    if config.shuffle:
        windows = wds.shuffle(config.shuffle, initial=config.shuffle, seed=config.seed)(windows)
    while batch := list(islice(windows, config.batch)):
        codes, mel, mask = pad([(window.codes, window.mel) for window in batch])
        keys: list[tuple[str, ...]] = [(window.key,) for window in batch]
        starts: list[tuple[int, ...]] = [(window.start,) for window in batch]
        yield Batch(codes, mel, mask, None, keys, starts)


def _windows(tars: Iterable[str], context: int, damage: Damage) -> Iterator[Window]:
    layout: _Layout | None = None  # of the first sample
    for tar in tars:
        for sample in _samples(tar):
            try:
                codes, mel = _arrays(sample, layout)
            except ValueError as error:
                key = sample["__key__"]
                damage.add(key, PipelineError(f"{tar}: {key} cannot be read ({error}); recreate the tar without it"))
                continue
            layout = _layout(codes, mel)
            for start in range(0, len(mel), context):
                end = start + context
                yield Window(sample["__key__"], start, codes[:, start:end], mel[start:end])


def _samples(tar: str) -> Iterator[dict[str, Any]]:
    """Yield the samples of a tar; their members are bytes."""
    try:
        stream = wds.gopen(tar)
        yield from group_by_keys(tar_file_expander([{"url": tar, "stream": stream}]))
        while stream.read(_BLOCK):  # read past the archive's end, so that a command can finish
            pass
        stream.close()  # raises if the command failed
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        # webdataset appends the name of what it was reading, as an argument or after an @
        reason = getattr(error, "strerror", None) or str(*error.args[:1]).partition(" @ ")[0]
        raise PipelineError(f"{tar}: cannot be read ({reason}); check that it exists and is complete") from error


def _arrays(sample: dict[str, Any], layout: _Layout | None) -> tuple[np.ndarray, np.ndarray]:
    """Return codes and mel of a sample. Raises `ValueError` if they are invalid, or of another layout than before."""
    missing = [name for name in _MEMBERS if name not in sample]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    codes, mel = (npy_view(sample[name]) for name in _MEMBERS)
    if codes.ndim != 2 or mel.ndim != 2 or codes.shape[1] != mel.shape[0]:
        raise ValueError(f"codes {codes.shape} and mel {mel.shape} are not [K, T] and [T, M]")
    if codes.dtype not in _CODES or mel.dtype not in _MEL:
        raise ValueError(f"codes of {codes.dtype} and mel of {mel.dtype}, not integers and floats")
    if layout is not None and layout != _layout(codes, mel):
        raise ValueError(f"K, M and their types are {_layout(codes, mel)}, but {layout} in the samples before it")
    return codes, mel


def _layout(codes: np.ndarray, mel: np.ndarray) -> _Layout:
    return len(codes), mel.shape[1], str(codes.dtype), str(mel.dtype)
