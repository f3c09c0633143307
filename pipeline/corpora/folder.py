"""Any folder of audio: every .flac, .wav, .ogg and .mp3 below it, split by a stable hash of its path."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from whisper_gpt.manifests.location import Location, list_files
from whisper_gpt.pipeline.audio import EXTENSIONS
from whisper_gpt.pipeline.corpora.recording import Recording, Scan, make_id, stable_draw
from whisper_gpt.pipeline.errors import PipelineError

VALIDATION_SHARE = 0.05
TEST_SHARE = 0.05


def scan(root: Location, corpus: str = "folder") -> Scan:
    """List the audio below `root`; a file keeps its split whatever else is added or removed.

    Raises `PipelineError` for no audio file, or a folder that cannot be read.
    """
    paths = [path for path in list_files(root) if path.lower().endswith(EXTENSIONS)]
    if not paths:
        raise PipelineError(f"{root}: no audio file ({', '.join(EXTENSIONS)}) in here or below")
    recordings = [Recording(id=make_id(corpus, path, path), split=_split(path), path=path) for path in paths]
    return Scan(corpus, sorted(recordings, key=lambda r: r.id))


def matches(path: Path, patterns: Sequence[str]) -> bool:
    """Whether `path` matches one of the shell `patterns`, in which * stands for slashes too."""
    return any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns)


def _split(path: str) -> str:
    draw = stable_draw(b"split " + path.encode(errors="surrogateescape"))
    if draw < TEST_SHARE:
        return "test"
    return "validation" if draw < TEST_SHARE + VALIDATION_SHARE else "train"
