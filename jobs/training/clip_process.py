"""Generate a clip in a process of its own, so that a loop that feeds a GPU need not wait for the seconds it takes."""

import pickle
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from whisper_gpt.jobs.training.clips import Clip, Clips
from whisper_gpt.model.hybrid import HybridLM
from whisper_gpt.pipeline.child_process import ChildDied, ChildProcess


class ClipProcess:
    """A clip of the model after `step` that is being generated."""

    def __init__(self, clips: Clips, model: HybridLM, step: int):
        """Start to generate with `model`, which is on the CPU and in evaluation mode; `step` is also the seed.

        Raises `OSError` if there is no room for a process, or in the temporary folder for the model and the codec.
        """
        self.step = step
        self._folder = TemporaryDirectory(prefix="whisper-gpt-clip-")
        file = Path(self._folder.name) / "clip.pickle"
        with file.open("wb") as opened:  # through a pipe it would have to wait for the other end, which takes seconds
            pickle.dump((clips, model), opened)
        self._child = ChildProcess(_generate, file, step)

    def ready(self, timeout_s: float = 0.0) -> bool:
        """Wait up to `timeout_s` seconds, and return whether `result` need not wait any more."""
        return self._child.pipe.poll(timeout_s)

    def result(self) -> Clip | None:
        """Wait for the clip and return it, or None if the process died; its error is on stderr then."""
        try:
            return self._child.receive()
        except ChildDied:
            return None
        finally:
            self.close()

    def close(self) -> None:
        """End the process, finished or not."""
        self._child.close()
        self._folder.cleanup()


def _generate(pipe: Connection, file: Path, seed: int) -> None:
    torch.set_num_threads(1)  # the other cores feed the GPU
    with file.open("rb") as opened:
        clips, model = pickle.load(opened)  # written a moment ago by the process that started this one
    pipe.send(clips.make(model, seed))
