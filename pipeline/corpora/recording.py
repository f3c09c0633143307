"""What every corpus recipe gives: recordings, and what the scan noticed."""

import hashlib
import re
from dataclasses import dataclass, field, replace

from whisper_gpt.pipeline.errors import PipelineError

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
    """`recordings` sorted by id; `absent`, by path, the split of sources that the corpus' own tables name but that are
    not there. Raises `PipelineError` where two recordings would have one id."""

    corpus: str
    recordings: list[Recording]
    warnings: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_id: dict[str, str] = {}
        for recording in self.recordings:
            other = by_id.setdefault(recording.id, recording.path)
            if other != recording.path:
                raise PipelineError(f"{other} and {recording.path} would both be {recording.id}; rename one of them")


def hold_out_speakers(scan: Scan, validation: float, test: float) -> Scan:
    """Move whole speakers of the training split to the others: about these shares of them, by a hash of their names."""

    def split(recording: Recording) -> str:
        if recording.split != "train" or not recording.speaker:
            return recording.split
        draw = stable_draw(f"speaker {recording.speaker}".encode())
        if draw < validation:
            return "validation"
        return "test" if draw < validation + test else "train"

    return replace(scan, recordings=[replace(recording, split=split(recording)) for recording in scan.recordings])


def stable_draw(data: bytes) -> float:
    """A number in [0, 1) that `data` decides, whatever else there is."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8]) / 2**64


def make_id(corpus: str, name: str, path: str) -> str:
    """An id that begins with `corpus`: `name` where that is short and `[A-Za-z0-9_-]`, else what can be kept of it and
    a hash of `path`. Raises `PipelineError` for a path that is no UTF-8 (no manifest could hold it)."""
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
