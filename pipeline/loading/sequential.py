"""Batches from WebDataset tars that no manifest of ours describes, read from their start to their end.

For datasets made elsewhere, with the members `KEY.codes.npy` `[K, T]` and `KEY.mel.npy` `[T, M]`. What `stream` can do
for want of a manifest this cannot: see `sequential_stream`.
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

_Like = tuple[int, int, str, str]  # K, M, and the types of codes and mel


@dataclass(frozen=True)
class SequentialConfig:
    """How windows are cut, ordered and dealt out. A sample longer than `context` frames is cut, a shorter is padded."""

    context: int  # frames
    batch: int  # windows
    shuffle: int = 0  # windows held in the buffer they are drawn from; 0: none, and the tars in order
    seed: int = 0
    rank: int = 0
    world: int = 1
    max_damaged: int = 0


@dataclass(frozen=True)
class Window:
    """A piece of one sample, from frame `start` on: `codes` of integers `[K, T]`, `mel` of floats `[T, M]`."""

    key: str
    start: int
    codes: np.ndarray
    mel: np.ndarray


def sequential_stream(urls: str | Sequence[str], config: SequentialConfig) -> Iterator[Batch]:
    """One pass over the tars at `urls`: paths, `pipe:` commands and http(s):// as webdataset opens them, with braces.

    Its limits: the order is that of the tars through a buffer, so nearly theirs where the buffer is small; there is no
    state, an interrupted pass begins again; each rank takes every world-th tar, so their numbers of batches differ; a
    tar is read from its start, and one that breaks off between two samples is only noticed where the command fails.
    For another epoch call it again with another seed: with a buffer, the tars come in another order too.

    Nothing is unpickled. A sample whose members are missing, unreadable or of different lengths is left out and
    logged; raises `PipelineError` past `max_damaged` of them, and for a tar that cannot be opened or read.
    """
    tars = [tar for url in ([urls] if isinstance(urls, str) else urls) for tar in expand_urls(url)]
    if config.shuffle:
        random.Random(config.seed).shuffle(tars)
    own = tars[config.rank :: config.world]
    if not own:
        raise PipelineError(f"{len(tars)} tars for {config.world} ranks: rank {config.rank} has none; use fewer ranks")
    return _batches(own, config)


def pad(windows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes `[K, T]` and mel `[T, M]` of windows, each of one type, padded on the right with zeros.

    → codes int64 `[B, K, T]`, mel float32 `[B, T, M]`, mask bool `[B, T]`.
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
    while chosen := list(islice(windows, config.batch)):
        codes, mel, mask = pad([(window.codes, window.mel) for window in chosen])
        keys: list[tuple[str, ...]] = [(window.key,) for window in chosen]
        starts: list[tuple[int, ...]] = [(window.start,) for window in chosen]
        yield Batch(codes, mel, mask, None, keys, starts)


def _windows(tars: Iterable[str], context: int, damage: Damage) -> Iterator[Window]:
    like: _Like | None = None  # as the first sample is
    for tar in tars:
        for sample in _samples(tar):
            try:
                codes, mel = _arrays(sample, like)
            except ValueError as error:
                key = sample["__key__"]
                damage.add(key, PipelineError(f"{tar}: {key} cannot be read ({error}); make the tar again without it"))
                continue
            like = _like(codes, mel)
            for start in range(0, len(mel), context):
                end = start + context
                yield Window(sample["__key__"], start, codes[:, start:end], mel[start:end])


def _samples(tar: str) -> Iterator[dict[str, Any]]:
    """The samples of a tar, their members still bytes."""
    try:
        stream = wds.gopen(tar)
        yield from group_by_keys(tar_file_expander([{"url": tar, "stream": stream}]))
        while stream.read(_BLOCK):  # what follows the archive's end: a command then ends by itself,
            pass
        stream.close()  # and this tells how it went
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        # webdataset adds to an error what it was reading, as an argument or after an @
        why = getattr(error, "strerror", None) or str(*error.args[:1]).partition(" @ ")[0]
        raise PipelineError(f"{tar}: cannot be read ({why}); see that it is there and whole") from error


def _arrays(sample: dict[str, Any], like: _Like | None) -> tuple[np.ndarray, np.ndarray]:
    """Codes and mel of a sample. Raises `ValueError` where they are none, or not `like` the samples before."""
    missing = [name for name in _MEMBERS if name not in sample]
    if missing:
        raise ValueError(f"it has no {' and no '.join(missing)}")
    codes, mel = (npy_view(sample[name]) for name in _MEMBERS)
    if codes.ndim != 2 or mel.ndim != 2 or codes.shape[1] != mel.shape[0]:
        raise ValueError(f"codes {codes.shape} and mel {mel.shape} are not [K, T] and [T, M]")
    if codes.dtype not in _CODES or mel.dtype not in _MEL:
        raise ValueError(f"codes of {codes.dtype} and mel of {mel.dtype}, not integers and floats")
    if like is not None and like != _like(codes, mel):
        raise ValueError(f"K, M and their types are {_like(codes, mel)}, in the samples before it {like}")
    return codes, mel


def _like(codes: np.ndarray, mel: np.ndarray) -> _Like:
    return len(codes), mel.shape[1], str(codes.dtype), str(mel.dtype)
