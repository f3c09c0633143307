"""Any folder of audio: every file below it that libsndfile can read.

A top folder named train, validation or test (or valid, val, dev) is that split; other files are split by a stable hash
of their paths.
"""

import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path

from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.corpora.listing import is_audio, list_source
from whisper_gpt.pipeline.corpora.recording import Found, Notes, Recording, Scan, collect, make_id, stable_draw
from whisper_gpt.pipeline.errors import PipelineError

VALIDATION_SHARE = 0.05
TEST_SHARE = 0.05
_NAMED = {"train": "train", "test": "test", **dict.fromkeys(("validation", "valid", "val", "dev"), "validation")}


def find(root: Location, corpus: str, exclude: Sequence[str], notes: Notes) -> Iterator[Found]:
    """Yield the audio below `root`, except matches of `exclude`. A file's split does not depend on other files.

    Raises `PipelineError` if there is no audio file, and `ManifestError` if a folder cannot be read.
    """
    empty = True
    for path, size in list_source(root, exclude, notes):
        if is_audio(path):
            empty = False
            yield Found(Recording(id=make_id(corpus, path, path), split=_split(path), path=path), size)
    if empty:
        why = "".join(f"; {warning}" for warning in notes.warnings)
        raise PipelineError(f"{root}: no audio file (.flac, .wav, .ogg, .mp3, …) in this folder or below{why}")


def scan(root: Location, corpus: str = "folder", exclude: Sequence[str] = ()) -> Scan:
    """Return everything that `find` yields, sorted by id."""
    return collect(find, root, corpus, exclude)


def matches(path: Path, patterns: Sequence[str]) -> bool:
    """Return whether `path` matches one of the shell `patterns`; * matches slashes too."""
    return any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns)


def _split(path: str) -> str:
    top, slash, _ = path.partition("/")
    if slash and top in _NAMED:
        return _NAMED[top]
    draw = stable_draw(b"split " + path.encode(errors="surrogateescape"))
    if draw < TEST_SHARE:
        return "test"
    return "validation" if draw < TEST_SHARE + VALIDATION_SHARE else "train"
