"""Any folder of audio: every file below it that libsndfile can read.

If it has top folders named train, validation (or valid, val, dev) or test, these are the splits, and everything else
belongs to the training split. Otherwise a stable hash of each file's path chooses its split.
"""

import fnmatch
from collections.abc import Iterator, Sequence
from pathlib import Path

from whisper_gpt.manifests.location import Location, is_folder
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
    empty, named = True, any(is_folder(root / name) for name in _NAMED)
    for path, size in list_source(root, exclude, notes):
        if is_audio(path):
            empty = False
            yield Found(
                Recording(id=make_id(corpus, path, path), split=_named(path) if named else _drawn(path), path=path),
                size,
            )
    if empty:
        why = "".join(f"; {warning}" for warning in notes.warnings)
        raise PipelineError(f"{root}: no audio file (.flac, .wav, .ogg, .mp3, …) in this folder or below{why}")


def scan(root: Location, corpus: str = "folder", exclude: Sequence[str] = ()) -> Scan:
    """Return everything that `find` yields, sorted by id."""
    return collect(find, root, corpus, exclude)


def matches(path: Path, patterns: Sequence[str]) -> bool:
    """Return whether `path` matches one of the shell `patterns`; * matches slashes too."""
    return any(fnmatch.fnmatch(str(path), pattern) for pattern in patterns)


def _named(path: str) -> str:
    return _NAMED.get(path.partition("/")[0], "train")


def _drawn(path: str) -> str:
    draw = stable_draw(b"split " + path.encode(errors="surrogateescape"))
    if draw < TEST_SHARE:
        return "test"
    return "validation" if draw < TEST_SHARE + VALIDATION_SHARE else "train"
