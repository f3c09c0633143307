"""TensorBoard curves of a run."""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from whisper_gpt.manifests.full_disk import naming_full_disk


@contextlib.contextmanager
def curves(run: Path, first_step: int) -> Iterator[SummaryWriter]:
    """Yield a writer to `run`/tensorboard that continues from `first_step`. Raises `ManifestError` if the disk is full.

    An error in the writer's thread is raised by the next write; here its traceback is not printed as well.
    """
    folder = run / "tensorboard"
    before = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if type(failed.thread).__module__ != "tensorboard.summary.writer.event_file_writer":
            before(failed)

    threading.excepthook = hook
    try:
        with naming_full_disk(folder), SummaryWriter(str(folder), purge_step=first_step) as writer:
            yield writer
    finally:
        threading.excepthook = before
