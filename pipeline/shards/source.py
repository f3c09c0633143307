"""A source file as the scan finds it: its size, a cheap id of its content, and what its header says."""

import errno
import hashlib
import io
from dataclasses import dataclass
from typing import BinaryIO

from whisper_gpt.manifests.location import Location, is_remote, open_below
from whisper_gpt.pipeline.audio import AudioInfo, probe_file
from whisper_gpt.pipeline.corpora.recording import Recording
from whisper_gpt.pipeline.errors import AudioError

_END_BYTES = 1 << 14
_NOT_THE_FILES = {
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.ENOSPC,
    errno.ESTALE,
    errno.ENOTCONN,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
}


@dataclass(frozen=True)
class Source:
    """A recording as it was found: its size, its content's id, and its header, or why that could not be read.

    `attempt` counts the plans that hold it: from the second on it is tried again.
    """

    recording: Recording
    size_bytes: int
    content_id: str
    info: AudioInfo | AudioError
    attempt: int = 1


def examine(root: Location, recording: Recording) -> Source:
    """Look at the file of `recording` below `root`.

    What is the file's own fault becomes part of the result; raises what an object store raises that does not answer.
    """
    try:
        with open_below(root, recording.path) as file:
            size, content = content_id(file)
            try:
                return Source(recording, size, content, probe_file(file))
            except AudioError as error:
                return Source(recording, size, content, error)
    except FileNotFoundError:
        return Source(recording, 0, "", AudioError("scan", "no such file"))
    except OSError as error:
        if not is_files_fault(root, error):
            raise
        return Source(recording, 0, "", AudioError("scan", error.strerror or str(error)))


def is_files_fault(root: Location, error: OSError) -> bool:
    """Whether a file below `root` cannot be read for a reason of its own, rather than the machine's or the store's."""
    return isinstance(error, FileNotFoundError) or (not is_remote(root) and error.errno not in _NOT_THE_FILES)


def content_id(file: BinaryIO) -> tuple[int, str]:
    """The size of `file`, and 32 hexadecimal digits of a SHA-256 over it and the first and last 16 KiB.

    It tells files apart, and most changes of one file, without reading it: a FLAC's first bytes hold the MD5 of all its
    samples. (The manifest holds the SHA-256 of every file that was processed.)
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END_BYTES))
    last = file.read(_END_BYTES)
    file.seek(0)
    digest = hashlib.sha256(size.to_bytes(8, "little") + file.read(_END_BYTES) + last)
    return size, digest.hexdigest()[:32]
