"""What lies in a source: the files that recipes choose from, and a line of warning for each kind that none can take."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from whisper_gpt.manifests.location import Location, list_below
from whisper_gpt.pipeline.audio import EXTENSIONS

# Audio that libsndfile does not read.
_UNREAD = {
    *(".m4a", ".m4b", ".m4r", ".aac", ".adts", ".wma", ".ape", ".wv", ".amr", ".3gp", ".ra", ".rm", ".dsf", ".dff"),
    *(".mka", ".weba", ".webm", ".ac3", ".dts", ".spx", ".tta", ".mpc", ".mp1", ".mp2", ".mpga", ".shn", ".sds"),
    *(".sd2", ".wve"),
}


@dataclass(frozen=True)
class SourceListing:
    """`files` by their path below the source → size in bytes; `unread` counts, by extension, audio in other formats."""

    files: dict[str, int]
    unread: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)


def list_source(root: Location, exclude: Sequence[str] = ()) -> SourceListing:
    """List the files below `root` but those that match a pattern in `exclude`; see `list_below`.

    Raises `ManifestError` for a folder that cannot be read for another reason than its permissions.
    """
    found = list_below(root, exclude)
    extensions = Counter(PurePosixPath(path).suffix.lower() for path in found.files)
    unread = Counter({extension: count for extension, count in extensions.items() if extension in _UNREAD})
    warnings = []
    if unread:
        warnings.append(f"left out: {in_words(unread)}, which libsndfile does not read; convert them to FLAC")
    for paths, what in ((found.unreadable, "folders that may not be read"), (found.irregular, "pipes or devices")):
        if paths:
            first = paths[0].encode(errors="backslashreplace").decode()
            warnings.append(f"left out: {len(paths)} {what}, {first} among them")
    return SourceListing(found.files, unread, warnings)


def in_words(unread: Counter[str]) -> str:
    """Extensions and how many files have them, most first."""
    return ", ".join(f"{count} {extension}" for extension, count in sorted(unread.items(), key=lambda e: (-e[1], e[0])))


def is_audio(path: str) -> bool:
    """Whether the name of a file is one that libsndfile reads."""
    return path.lower().endswith(EXTENSIONS)


def by_stem(paths: Iterable[str]) -> dict[str, str]:
    """Of the audio among `paths`, by the path without its extension, the one whose extension comes first."""
    audio = sorted((path for path in paths if is_audio(path)), key=lambda path: (_rank(path), path), reverse=True)
    return {path.rpartition(".")[0]: path for path in audio}


def _rank(path: str) -> int:
    return EXTENSIONS.index(PurePosixPath(path).suffix.lower())
