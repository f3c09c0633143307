"""Reading one planned source in a worker: fetched if it is not here, held against the plan, decoded, hashed."""

from collections.abc import Iterator

import numpy as np

from jobs.shard_queue import PATIENCE
from jobs.shard_task import ShardJob
from pipeline.audio import stream_mono
from pipeline.errors import AudioError
from pipeline.location import file_sha256, is_remote, local_copy
from pipeline.source import content_id


class SourceReader:
    """A source that is read once: its audio in blocks, and after the last of them its `sha256`."""

    def __init__(self, job: ShardJob, row: dict, given_up: bool = False):
        self.row = row
        self.sha256 = ""
        self._path = job.source / row["path"]
        self._given_up = given_up

    def blocks(self) -> Iterator[np.ndarray]:
        """The audio `[n]`, at 24 kHz. Raises `AudioError`, for what the scan found too."""
        if self._given_up:
            raise AudioError("encode", f"the worker died {PATIENCE} times of this file alone", "WorkerDied")
        if self.row["scan_error"]:
            raise AudioError("scan", self.row["scan_error"])
        try:
            with local_copy(self._path) as file:
                with file.open("rb") as opened:
                    if content_id(opened)[1] != self.row["content_id"]:
                        raise AudioError("scan", "changed since it was planned; --retry-failed takes it as it is")
                yield from stream_mono(file)
                self.sha256 = file_sha256(file)
        except FileNotFoundError as error:
            raise AudioError("scan", "no such file") from error
        except OSError as error:
            if is_remote(self._path) and not isinstance(error, PermissionError):
                raise
            raise AudioError("decode", error.strerror or str(error)) from error
