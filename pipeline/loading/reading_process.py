"""Read a stream's batches in a process of its own, so that the interpreter of this one is free to launch a GPU's work.

A few batches lie in shared memory; this process copies each one out of it, and is sent what is small.
"""

import itertools
import multiprocessing
import signal
import traceback
from contextlib import closing
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Semaphore
from typing import Any

import torch
from torchdata.nodes import BaseNode

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch
from whisper_gpt.pipeline.loading.stream import Datasets, StreamConfig, open_split, stream

_SLOTS = 3  # batches in shared memory
_PARENT_POLL_S = 5.0


@dataclass(frozen=True)
class _Message:
    """What belongs to the batch in the next slot, without its tensors; `state` is the stream's after it."""

    keys: list[tuple[str, ...]]
    starts: list[tuple[int, ...]]
    state: dict[str, Any]
    damaged: dict[str, str]


class ReadingProcess(BaseNode[Batch]):
    """The batches, states, damage and errors of `stream`, read by another process, which is started by `reset`.

    `damaged` may be filled before that with the samples that were left out earlier. Batches must be narrow and padded.
    Raises as `stream` does.
    """

    def __init__(self, datasets: Datasets, split: str, config: StreamConfig):
        super().__init__()
        if not (config.narrow and config.pad):
            raise PipelineError("a reading process needs batches of one shape and type: pass narrow and pad")
        _, readers, _ = open_split(datasets, split, config)
        self.samples_sha256 = [reader.samples_sha256() for reader in readers]
        self.damaged: dict[str, str] = {}
        self._opened_with, self._pin = (datasets, split, config), config.pin
        self._slots = [_slot(config, *readers[0].shape) for _ in range(_SLOTS)]
        self._process: multiprocessing.context.SpawnProcess | None = None

    def reset(self, initial_state: dict[str, Any] | None = None) -> None:
        super().reset(initial_state)
        self.close()
        context = torch.multiprocessing.get_context("spawn")  # a fork of a process that uses CUDA cannot use torch
        self._receiver, sender = context.Pipe(duplex=False)
        self._free = context.Semaphore(_SLOTS)
        self._next_slot = itertools.cycle(self._slots)
        self._state = initial_state
        arguments = (*self._opened_with, initial_state, self.damaged, self._slots, self._free, sender)
        self._process = context.Process(target=_read, args=arguments, daemon=True)
        self._process.start()
        sender.close()  # the process has its own: when that ends, the receiver's end is reached

    def next(self) -> Batch:
        try:
            message = self._receiver.recv()
        except EOFError as error:
            raise PipelineError("the process that reads the datasets has died; run it again with --resume") from error
        if message is None:
            raise StopIteration
        if isinstance(message, Exception):
            raise message
        windows, copy = len(message.keys), torch.Tensor.pin_memory if self._pin else torch.Tensor.clone
        batch = next(self._next_slot).map(lambda tensor: copy(tensor[:windows]))
        self._free.release()
        self._state = message.state
        self.damaged |= message.damaged
        return replace(batch, keys=message.keys, starts=message.starts)

    def get_state(self) -> dict[str, Any] | None:
        return self._state

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._receiver.close()


def _slot(config: StreamConfig, codebooks: int, bands: int) -> Batch:
    """Return room for a batch in shared memory."""
    windows, frames = config.batch, config.context
    codes = torch.zeros(windows, codebooks, frames, dtype=torch.int16)
    mel = torch.zeros(windows, frames, bands, dtype=torch.float16)
    mask = torch.zeros(windows, frames, dtype=torch.bool)
    doc_ids = torch.zeros(windows, frames, dtype=torch.int64) if config.pack else None
    return Batch(codes, mel, mask, doc_ids, [], []).map(torch.Tensor.share_memory_)


def _read(
    datasets: Datasets,
    split: str,
    config: StreamConfig,
    state: dict[str, Any] | None,
    damaged: dict[str, str],
    slots: list[Batch],
    free: Semaphore,
    sender: Connection,
) -> None:
    """Fill the slots, in turn, as they become free; send a message for each, None at the end, or the error."""
    for number in (signal.SIGINT, signal.SIGTERM):  # may be sent to all processes; the training process ends this one
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None
    try:
        with closing(stream(datasets, split, replace(config, pin=False))) as source:
            source.damaged.update(damaged)
            source.reset(state)
            for slot, batch in zip(itertools.cycle(slots), source, strict=False):
                while not free.acquire(timeout=_PARENT_POLL_S):
                    if not parent.is_alive():
                        return
                for room, tensor in zip(slot.tensors(), batch.tensors(), strict=True):
                    room[: len(tensor)].copy_(tensor)
                sender.send(_Message(batch.keys, batch.starts, source.state_dict(), dict(source.damaged)))
        sender.send(None)
    except PipelineError as error:
        sender.send(error)
    except Exception as error:  # of another library: it may not be picklable
        traceback.print_exc()
        sender.send(PipelineError(f"{type(error).__name__}: {error}"))
