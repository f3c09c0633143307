"""Any folder of audio: every .flac, .wav, .ogg and .mp3 below it, split by a stable hash of its path."""

import hashlib
import os
from pathlib import Path

from pipeline.audio import EXTENSIONS
from pipeline.corpora.recording import MAX_ID, Recording, Scan, key_safe
from pipeline.errors import PipelineError

VALIDATION_SHARE = 0.05
TEST_SHARE = 0.05


def scan(root: Path, corpus: str = "folder") -> Scan:
    """List the audio below `root`; a file keeps its split whatever else is added or removed.

    Raises `PipelineError` where there is no audio file.
    """
    paths = [
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(EXTENSIONS)
    ]
    if not paths:
        raise PipelineError(f"{root}: no audio file ({', '.join(EXTENSIONS)}) in here or below")
    recordings = [Recording(id=_id(corpus, path), split=_split(path), path=path) for path in paths]
    return Scan(corpus, sorted(recordings, key=lambda r: r.id))


def _id(corpus: str, path: str) -> str:
    """A readable stem, and enough of the path's hash to tell equal stems apart."""
    digest = hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:12]
    room = MAX_ID - len(corpus) - len(digest) - 2
    return f"{corpus}_{key_safe(Path(path).stem)[:room]}_{digest}"


def _split(path: str) -> str:
    draw = int.from_bytes(hashlib.sha256(b"split " + path.encode(errors="surrogateescape")).digest()[:8]) / 2**64
    if draw < TEST_SHARE:
        return "test"
    return "validation" if draw < TEST_SHARE + VALIDATION_SHARE else "train"
