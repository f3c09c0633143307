"""One run at a time on one dataset folder, and the litter of killed runs swept before work begins."""

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import JobError
from jobs.planning import LOGS_FOLDER
from pipeline.publish import TEMPORARY_SUFFIX

LOCK_FILE = Path(LOGS_FOLDER) / "preprocess.lock"


@contextmanager
def output_lock(dataset: Path) -> Iterator[None]:
    """Hold `dataset` for the length of a block; temporary files of runs that were killed are removed first.

    The lock is the operating system's (flock): it ends with its process, however that ends, so a dead run's is free.
    Raises `JobError` where a living run holds it.
    """
    path = dataset / LOCK_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise JobError(f"{dataset}: another run is writing here ({holder}); wait for it, or stop it") from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        for litter in dataset.rglob(f".*{TEMPORARY_SUFFIX}"):
            litter.unlink(missing_ok=True)
        yield
