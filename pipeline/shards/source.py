"""A source file as scanned: its size, a cheap id of its content, and its header."""

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
_MACHINE_ERRORS = {
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
    """A scanned recording: its size, its content's id, and its header or the error of reading it.

    `attempt` is 1 in the first plan that contains the source, and 1 more with each retry.
    """

    recording: Recording
    size_bytes: int
    content_id: str
    info: AudioInfo | AudioError
    attempt: int = 1


def examine(root: Location, recording: Recording) -> Source:
    """Scan the file of `recording` below `root`.

    Errors of the file itself become part of the result; errors of the machine or the object store propagate.
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
    """Return whether `error` is the fault of a file below `root`, not of the machine or the object store."""
    return isinstance(error, FileNotFoundError) or (not is_remote(root) and error.errno not in _MACHINE_ERRORS)


def content_id(file: BinaryIO) -> tuple[int, str]:
    """Return the size of `file`, and 32 hexadecimal digits of a SHA-256 over the size and the first and last 16 KiB.

    It distinguishes files, and detects most changes of a file, without reading all of it: the first bytes of a FLAC
    contain the MD5 of all its samples. (The manifest has the SHA-256 of every processed file.)
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _END_BYTES))
    last = file.read(_END_BYTES)
    file.seek(0)
    digest = hashlib.sha256(size.to_bytes(8, "little") + file.read(_END_BYTES) + last)
    return size, digest.hexdigest()[:32]
