"""Any folder of audio: every file below it that libsndfile can read, split by a stable hash of its path."""

import fnmatch
from collections.abc import Sequence
from pathlib import Path

from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.corpora.listing import in_words, is_audio, list_source
from whisper_gpt.pipeline.corpora.recording import Recording, Scan, make_id, stable_draw
from whisper_gpt.pipeline.errors import PipelineError

VALIDATION_SHARE = 0.05
TEST_SHARE = 0.05


def scan(root: Location, corpus: str = "folder", exclude: Sequence[str] = ()) -> Scan:
    """List the audio below `root`, except matches of `exclude`. A file's split does not depend on other files.

    Raises `PipelineError` if there is no audio file, and `ManifestError` if a folder cannot be read.
    """
    source = list_source(root, exclude)
    paths = [path for path in source.files if is_audio(path)]
    if not paths:
        unread = f", but {in_words(source.unread)}: convert them to FLAC" if source.unread else ""
        raise PipelineError(f"{root}: no audio file (.flac, .wav, .ogg, .mp3, …) in this folder or below{unread}")
    recordings = [Recording(id=make_id(corpus, path, path), split=_split(path), path=path) for path in paths]
    return Scan(corpus, sorted(recordings, key=lambda r: r.id), source.warnings)


def matches(path: Path, patterns: Sequence[str]) -> bool:
    """Return whether `path` matches one of the shell `patterns`; * matches slashes too."""
    return any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns)


def _split(path: str) -> str:
    draw = stable_draw(b"split " + path.encode(errors="surrogateescape"))
    if draw < TEST_SHARE:
        return "test"
    return "validation" if draw < TEST_SHARE + VALIDATION_SHARE else "train"
