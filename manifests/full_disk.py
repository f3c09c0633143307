"""Report a full disk with the path: Python's own error does not name the file."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from whisper_gpt.manifests.errors import ManifestError

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Raise `ManifestError` with `path` if the block fails to write because a disk or a quota is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        raise ManifestError(f"{error.filename or path}: {error.strerror}; free some space and rerun") from error
