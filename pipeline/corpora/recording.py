"""What every corpus recipe gives: recordings, and what the scan noticed."""

import re
from dataclasses import dataclass, field

SPLITS = ("train", "validation", "test")
MAX_ID = 74  # with segment number and extension a name stays within the sample contract's 90


@dataclass(frozen=True)
class Recording:
    """One source file. `id` is unique in the corpus and the stem of its samples' keys; unknown text is `""`."""

    id: str
    split: str
    path: str  # below the root that was scanned, with forward slashes
    speaker: str = ""
    speaker_name: str = ""
    sex: str = ""
    chapter: str = ""
    book: str = ""
    text: str = ""
    composer: str = ""
    title: str = ""
    year: int = 0
    midi: str = ""


@dataclass(frozen=True)
class Scan:
    """`recordings` sorted by id; `absent` are sources that the corpus' own tables name but that are not there."""

    corpus: str
    recordings: list[Recording]
    warnings: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def key_safe(text: str) -> str:
    """`text` with everything outside `[A-Za-z0-9_-]` turned into `-`."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", text)
