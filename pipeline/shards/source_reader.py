"""Read one planned source in a worker: fetch it if it is remote, check it against the plan, decode and hash it."""

import platform
from collections.abc import Iterator

import numpy as np

from whisper_gpt.manifests.location import Location, file_sha256, is_folder, is_remote, local_copy
from whisper_gpt.pipeline.audio import stream_mono
from whisper_gpt.pipeline.errors import AudioError, PipelineError
from whisper_gpt.pipeline.shards.source import content_id, is_files_fault
from whisper_gpt.pipeline.shards.task import MAX_CRASHES, ShardJob


class SourceReader:
    """Reads a source once: its audio in blocks; `sha256` is set after the last block."""

    def __init__(self, job: ShardJob, row: dict, given_up: bool = False):
        self.row = row
        self.sha256 = ""
        self._root, self._treatment = job.source, job.treatment
        self._given_up = given_up

    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the audio in blocks `[n]` at 24 kHz. Raises `AudioError`, also for an error found by the scan."""
        if self._given_up:
            raise AudioError("encode", f"the worker died {MAX_CRASHES} times of this file alone", "WorkerDied")
        if self.row["scan_error"]:
            raise AudioError("scan", self.row["scan_error"])
        try:
            with local_copy(self._root, self.row["path"]) as file:
                with file.open("rb") as opened:
                    if content_id(opened)[1] != self.row["content_id"]:
                        raise AudioError("scan", "changed since it was planned; --retry-failed takes it as it is")
                yield from stream_mono(file, treatment=self._treatment)
                self.sha256 = file_sha256(file)
        except FileNotFoundError as error:
            require_corpus(self._root)
            raise AudioError("scan", "no such file") from error
        except OSError as error:
            if not is_files_fault(self._root, error):
                raise
            raise AudioError("decode", error.strerror or str(error)) from error


def require_corpus(root: Location) -> None:
    """Raise `PipelineError` if the whole corpus is missing, as on a machine that has not mounted it."""
    if not is_folder(root) or (not is_remote(root) and not any(root.iterdir())):
        raise PipelineError(f"{root}: missing or empty on {platform.node()}; every node needs access to the corpus")
