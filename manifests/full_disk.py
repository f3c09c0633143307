"""A disk that takes no more bytes: Python's error names no file, what a user is told does."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from whisper_gpt.manifests.errors import ManifestError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Raise `ManifestError`, naming `path`, if a disk or a quota has no room for what the block writes there."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise ManifestError(f"{error.filename or path}: {error.strerror}; make room, and run it again") from error
