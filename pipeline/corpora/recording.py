"""The result of scanning a corpus: recordings, warnings, and files that are missing."""

import hashlib
import json
import re
from dataclasses import dataclass, field, replace

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


@dataclass(frozen=True)
class Scan:
    """`recordings` are sorted by id. `absent` maps files that the corpus metadata lists but that do not exist to their
    split. Raises `PipelineError` if two recordings have the same id."""

    corpus: str
    recordings: list[Recording]
    warnings: list[str] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        by_id: dict[str, str] = {}
        for recording in self.recordings:
            first = by_id.setdefault(recording.id, recording.path)
            if first != recording.path:
                raise PipelineError(f"{first} and {recording.path} have the same id {recording.id}; rename one of them")


def with_speed(recording: Recording, speed: float) -> Recording:
    """Note in `extra` that the recording is played `speed` times as fast, unless that is 1."""
    if speed == 1:
        return recording
    return replace(
        recording, extra=json.dumps((json.loads(recording.extra) if recording.extra else {}) | {"speed": speed})
    )


def speed_of(extra: str) -> float:
    """Return the speed noted in a recording's or a sample's `extra`."""
    return json.loads(extra).get("speed", 1.0) if extra else 1.0


def hold_out_speakers(scan: Scan, validation: float, test: float) -> Scan:
    """Move about these shares of the training split's speakers to validation and test, always whole, by a hash."""

    def split(recording: Recording) -> str:
        if recording.split != "train" or not recording.speaker:
            return recording.split
        draw = stable_draw(f"speaker {recording.speaker}".encode())
        if draw < validation:
            return "validation"
        return "test" if draw < validation + test else "train"

    return replace(scan, recordings=[replace(recording, split=split(recording)) for recording in scan.recordings])


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
