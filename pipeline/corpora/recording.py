"""What scanning a corpus finds: recordings, warnings, and files that are missing."""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.errors import PipelineError

SPLITS = ("train", "validation", "test")
MAX_ID = 74  # with segment number and extension, a name has at most `sample.MAX_NAME` (90) characters


@dataclass(frozen=True)
class Recording:
    """One source file. `id` is unique in the corpus and the stem of its samples' keys; unknown text is `""`."""

    id: str
    split: str
    path: str  # relative to the scanned root, with forward slashes
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
    extra: str = ""  # a JSON object of whatever else the corpus knows


class Found(NamedTuple):
    """A recording that a scan found, and the size of its file."""

    recording: Recording
    size_bytes: int


@dataclass
class Notes:
    """What a scan reports besides its recordings; complete when the last of them was yielded.

    `absent` maps files that the corpus metadata lists but that do not exist to their split.
    """

    warnings: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


# (root, the corpus's name in keys and in the manifest, patterns of paths to exclude, notes) -> its recordings, in any
# order. An iterator, because the recordings of a large corpus do not fit into memory.
Find = Callable[[Location, str, Sequence[str], Notes], Iterator[Found]]


@dataclass(frozen=True)
class Scan:
    """All recordings of a corpus in memory, sorted by id, and the notes."""

    recordings: list[Recording]
    warnings: list[str]
    absent: dict[str, str]


def collect(find: Find, root: Location, corpus: str, exclude: Sequence[str]) -> Scan:
    """Scan a corpus that fits into memory."""
    notes = Notes()
    recordings = [found.recording for found in find(root, corpus, exclude, notes)]
    return Scan(sorted(recordings, key=lambda recording: recording.id), notes.warnings, notes.absent)


def held_out(recording: Recording, validation: float, test: float) -> Recording:
    """Move about these shares of the training split's speakers to validation and test, always whole, by a hash."""
    if recording.split != "train" or not recording.speaker:
        return recording
    draw = stable_draw(f"speaker {recording.speaker}".encode())
    if draw < validation:
        return replace(recording, split="validation")
    return replace(recording, split="test") if draw < validation + test else recording


def stable_draw(data: bytes) -> float:
    """Return a number in [0, 1) that depends on `data` only."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8]) / 2**64


def make_id(corpus: str, name: str, path: str) -> str:
    """Return an id that begins with `corpus` and then is `name`, if that is short and only `[A-Za-z0-9_-]`.

    Otherwise other characters are replaced, and it is shortened and ends with a hash of `path`. Raises `PipelineError`
    if `path` is not UTF-8, because a manifest could not store it.
    """
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise PipelineError(f"{path!a}: the file's name is not UTF-8; rename it") from error
    plain = f"{corpus}_{name}"
    if len(plain) <= MAX_ID and re.fullmatch(r"[A-Za-z0-9_-]+", plain):
        return plain
    digest = hashlib.sha256(encoded).hexdigest()[:12]
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", plain)
    return f"{safe[: MAX_ID - len(digest) - 1]}_{digest}"
