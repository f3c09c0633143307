"""Generate a clip in a process of its own, so that a loop that feeds a GPU need not wait for the seconds it takes."""

import multiprocessing
import signal
from multiprocessing.connection import Connection

import torch

from whisper_gpt.jobs.training.clips import Clip, Clips
from whisper_gpt.model.hybrid import HybridLM


class ClipProcess:
    """A clip on its way; `step` is that of its model. Leaving the process alone ends it with this one."""

    def __init__(self, clips: Clips, model: HybridLM, step: int):
        """Start to generate with `model`, which must be on the CPU and not change any more; `step` is also the seed."""
        self.step = step
        context = multiprocessing.get_context("spawn")  # a fork of a process that uses CUDA cannot use torch
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_generate, args=(sender, clips, model, step), daemon=True)
        self._process.start()
        sender.close()  # the process has its own: when that ends, the receiver's end is reached

    def ready(self) -> bool:
        """Return whether `result` would not wait."""
        return self._receiver.poll()

    def result(self) -> Clip | None:
        """Wait for the clip and return it, or None if the process died; its error is on stderr then."""
        try:
            return self._receiver.recv()
        except EOFError:
            return None
        finally:
            self.close()

    def close(self) -> None:
        """End the process, finished or not."""
        self._process.kill()
        self._process.join()
        self._receiver.close()


def _generate(sender: Connection, clips: Clips, model: HybridLM, seed: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches every process; the training process ends this one
    torch.set_num_threads(1)  # the other cores feed the GPU
    sender.send(clips.make(model, seed))
