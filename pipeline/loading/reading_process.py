"""Read a stream's batches in a process of its own, so that the interpreter of this one is free to launch a GPU's work.

A few batches lie in shared memory; this process copies each one out of it, and is sent what is small.
"""

import ctypes
import itertools
import pickle
import traceback
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
from torchdata.nodes import BaseNode

from whisper_gpt.pipeline.child_process import ChildProcess
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch
from whisper_gpt.pipeline.loading.stream import Datasets, StreamConfig, open_split, stream

_SLOTS = 3  # batches in shared memory


@dataclass(frozen=True)
class _Message:
    """What belongs to the batch in the next slot, without its arrays; `state` is the stream's after it."""

    keys: list[tuple[str, ...]]
    starts: list[tuple[int, ...]]
    state: dict[str, Any]
    damaged: dict[str, str]


class ReadingProcess(BaseNode[Batch]):
    """The batches, states, damage and errors of `stream`, read by another process, which `reset` starts.

    Batches must be narrow and padded. Samples that an earlier run left out may be put into `damaged` before `reset`;
    they count towards `max_damaged`. Raises as `stream` does, and `ChildDied` if the process was killed.
    """

    def __init__(self, datasets: Datasets, split: str, config: StreamConfig):
        super().__init__()
        if not (config.narrow and config.pad):
            raise PipelineError("a reading process needs batches of one shape and type: pass narrow and pad")
        _, readers, _ = open_split(datasets, split, config)
        self.samples_sha256 = [reader.samples_sha256() for reader in readers]
        self.damaged: dict[str, str] = {}
        self._opened_with = datasets, split, config
        self._slot_type = _slot_type(config, *readers[0].shape)
        self._memory = get_context("spawn").RawArray("b", _SLOTS * self._slot_type.itemsize)
        self._slots = np.frombuffer(self._memory, self._slot_type)
        self._child: ChildProcess | None = None

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self.close()
        self._state = initial_state
        self._next_slot = itertools.cycle(range(_SLOTS))
        self._child = ChildProcess(
            _read, *self._opened_with, initial_state, self.damaged, self._memory, self._slot_type
        )

    def next(self) -> Batch:
        assert self._child is not None
        message = self._child.receive()
        if message is None:
            raise StopIteration
        if isinstance(message, Exception):
            raise message
        slot, windows = next(self._next_slot), len(message.keys)
        copy = torch.Tensor.pin_memory if self._opened_with[2].pin else torch.Tensor.clone
        arrays = {name: self._slots[name][slot, :windows] for name in self._slot_type.names or ()}
        tensors: dict[str, Any] = {name: copy(torch.from_numpy(array)) for name, array in arrays.items()}
        self._child.pipe.send(None)  # the slot is free
        self._state = message.state
        self.damaged |= message.damaged
        return Batch(**({"doc_ids": None} | tensors), keys=message.keys, starts=message.starts)

    def get_state(self) -> dict[str, Any] | None:
        return self._state

    def close(self) -> None:
        """End the process."""
        if self._child is not None:
            self._child.close()


def _slot_type(config: StreamConfig, codebooks: int, bands: int) -> np.dtype:
    """Return the type of a slot: the arrays of a whole batch."""
    windows, frames = config.batch, config.context
    packed = [("doc_ids", np.int64, (windows, frames))] if config.pack else []
    codes, mel = ("codes", np.int16, (windows, codebooks, frames)), ("mel", np.float16, (windows, frames, bands))
    return np.dtype([*packed, codes, mel, ("mask", np.bool_, (windows, frames))], align=True)


def _read(
    pipe: Connection,
    datasets: Datasets,
    split: str,
    config: StreamConfig,
    state: dict[str, Any] | None,
    damaged: dict[str, str],
    memory: "ctypes.Array[ctypes.c_byte]",
    slot_type: np.dtype,
) -> None:
    """Fill the slots in turn, and send a message for each; then None, or the error."""
    torch.set_num_threads(1)
    slots = np.frombuffer(memoryview(memory), slot_type)
    try:
        for number, item in enumerate(_items(datasets, split, config, state, damaged)):
            if number >= _SLOTS:
                pipe.recv()  # until the other process has copied a batch
            if not isinstance(item, tuple):
                pipe.send(item)
                return
            batch, message = item
            for name in slot_type.names or ():
                slots[name][number % _SLOTS, : len(batch.keys)] = getattr(batch, name).numpy()
            pipe.send(message)
    except (EOFError, ConnectionError):  # it was killed
        return


def _items(
    datasets: Datasets, split: str, config: StreamConfig, state: dict[str, Any] | None, damaged: dict[str, str]
) -> Iterator[tuple[Batch, _Message] | Exception | None]:
    """Yield the stream's batches with their messages; then None, or the error."""
    try:
        with closing(stream(datasets, split, replace(config, pin=False))) as source:
            source.damaged.update(damaged)
            source.reset(state)
            for batch in source:
                yield batch, _Message(batch.keys, batch.starts, source.state_dict(), dict(source.damaged))
        yield None
    except Exception as error:
        yield _picklable(error)


def _picklable(error: Exception) -> Exception:
    """Return the error, or if it cannot be sent, one with the same words; both with the traceback from here."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}").with_traceback(error.__traceback__)
    error.add_note("".join(traceback.format_exception(error)))
    return error
