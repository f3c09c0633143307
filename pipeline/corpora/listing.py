"""List a source: the files that the corpora choose from, and a warning for each kind of file that cannot be used."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from whisper_gpt.manifests.location import Location, Skipped, walk
from whisper_gpt.pipeline.audio import EXTENSIONS
from whisper_gpt.pipeline.corpora.recording import Notes

# Audio formats that libsndfile cannot read.
_UNREAD = {
    *(".m4a", ".m4b", ".m4r", ".aac", ".adts", ".wma", ".ape", ".wv", ".amr", ".3gp", ".ra", ".rm", ".dsf", ".dff"),
    *(".mka", ".weba", ".webm", ".ac3", ".dts", ".spx", ".tta", ".mpc", ".mp1", ".mp2", ".mpga", ".shn", ".sds"),
    *(".sd2", ".wve"),
}


def list_source(root: Location, exclude: Sequence[str], notes: Notes) -> Iterator[tuple[str, int]]:
    """Yield path and size of the files below `root`, except those that match a pattern in `exclude`; see `walk`.

    At the end it adds warnings to `notes`. Raises `ManifestError` if a folder cannot be read for a reason other than
    its permissions.
    """
    skipped, unread = Skipped(), Counter[str]()
    for path, size in walk(root, exclude, skipped):
        if (extension := PurePosixPath(path).suffix.lower()) in _UNREAD:
            unread[extension] += 1
        yield path, size
    if unread:
        notes.warnings.append(f"left out: {in_words(unread)}, which libsndfile cannot read; convert them to FLAC")
    kinds = (skipped.unreadable, "folders without read permission"), (skipped.irregular, "pipes or devices")
    for paths, kind in kinds:
        if paths:
            first = paths[0].encode(errors="backslashreplace").decode()
            notes.warnings.append(f"left out: {len(paths)} {kind}, such as {first}")


def in_words(unread: Counter[str]) -> str:
    """Format the number of files per extension, most frequent first."""
    return ", ".join(f"{count} {extension}" for extension, count in sorted(unread.items(), key=lambda e: (-e[1], e[0])))


def is_audio(path: str) -> bool:
    """Return whether libsndfile reads files with this extension."""
    return path.lower().endswith(EXTENSIONS)


def by_stem(paths: Iterable[str]) -> dict[str, str]:
    """Map each audio path without its extension to the file whose extension comes first in `EXTENSIONS`."""
    audio = sorted((path for path in paths if is_audio(path)), key=lambda path: (_rank(path), path), reverse=True)
    return {path.rpartition(".")[0]: path for path in audio}


def _rank(path: str) -> int:
    return EXTENSIONS.index(PurePosixPath(path).suffix.lower())
