"""LibriSpeech (openslr.org/12): SUBSET/SPEAKER/CHAPTER/*.flac, transcripts, tables of speakers and chapters.

The subset's name gives the split: train-* train, dev-* validation, test-* test. The audio may be in any format that
libsndfile reads. A folder without tables or transcripts (an incomplete download) still works: those fields stay empty,
with one warning.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from whisper_gpt.manifests.iteration import map_ahead
from whisper_gpt.manifests.location import Location, is_excluded, is_file, is_folder, open_below
from whisper_gpt.pipeline.corpora.listing import by_stem, is_audio, list_source
from whisper_gpt.pipeline.corpora.recording import Found, Notes, Recording, Scan, collect, make_id
from whisper_gpt.pipeline.errors import PipelineError

_SPLIT_OF_PREFIX = {"train": "train", "dev": "validation", "test": "test"}
_GAPS = ("speaker (SPEAKERS.TXT)", "chapter (CHAPTERS.TXT)", "transcript (.trans.txt)")
_READERS = 32


@dataclass(frozen=True)
class _Speaker:
    sex: str = ""
    name: str = ""


@dataclass(frozen=True)
class _Chapter:
    title: str = ""
    book: str = ""


@dataclass
class _ChapterFiles:
    folder: str
    audio: dict[str, tuple[str, int]] = field(default_factory=dict)  # path and size by utterance
    transcripts: list[str] = field(default_factory=list)
    copies: int = 0  # files with an utterance in a second format


def find(root: Location, corpus: str, exclude: Sequence[str], notes: Notes) -> Iterator[Found]:
    """Yield the utterances below `root`, except matches of `exclude`.

    `root` contains the subsets, or LibriSpeech/ with the subsets. Every id begins with `corpus`. Raises `PipelineError`
    if there is no LibriSpeech subset.
    """
    within = "LibriSpeech/" if is_folder(root / "LibriSpeech") else ""
    speaker_table = _read_speakers(root, f"{within}SPEAKERS.TXT", exclude)
    chapter_table = _read_chapters(root, f"{within}CHAPTERS.TXT", exclude)
    # One small file per chapter: mostly latency in an object store.
    chapters = map_ahead(
        lambda files: (files, _read_transcripts(root, files.transcripts)),
        _chapters(list_source(root, exclude, notes), within),
        _READERS,
    )
    utterances, copies, gaps = 0, 0, Counter[str]()
    for files, texts in chapters:
        subset, speaker_id, chapter_id = files.folder.removeprefix(within).split("/")
        split = _SPLIT_OF_PREFIX[subset.partition("-")[0]]
        notes.absent |= {f"{files.folder}/{utterance}.flac": split for utterance in texts.keys() - files.audio.keys()}
        speaker, chapter = speaker_table.get(speaker_id, _Speaker()), chapter_table.get(chapter_id, _Chapter())
        copies += files.copies
        for utterance, (path, size) in files.audio.items():
            recording = Recording(
                id=make_id(corpus, f"{subset}_{utterance}", path),
                split=split,
                path=path,
                speaker=speaker_id,
                speaker_name=speaker.name,
                sex=speaker.sex,
                chapter=chapter_id,
                book=chapter.book,
                title=chapter.title,
                text=texts.get(utterance, ""),
                extra=json.dumps({"subset": subset}),
            )
            utterances += 1
            gaps.update(_gaps(recording))
            yield Found(recording, size)
    if not utterances:
        raise PipelineError(
            f"{root}: no audio of a LibriSpeech subset (train-*, dev-*, test-*); pass the unpacked folder"
        )
    if gaps:
        parts = ", ".join(f"{gaps[gap]} without a {gap}" for gap in _GAPS if gaps[gap])
        notes.warnings.append(f"of {utterances} utterances, {parts}: those fields stay empty")
    if copies:
        notes.warnings.append(f"left out: {copies} files with an utterance in a second format")


def scan(root: Location, corpus: str = "librispeech", exclude: Sequence[str] = ()) -> Scan:
    """Return everything that `find` yields, sorted by id."""
    return collect(find, root, corpus, exclude)


def transcript(audio: Path) -> str:
    """Return the text of the utterance in the file `audio` from its folder's .trans.txt, or "" if there is none."""
    tables = [path.name for path in sorted(audio.parent.glob("[!.]*.trans.txt"))]
    return _read_transcripts(audio.parent, tables).get(audio.stem, "")


def _chapters(listing: Iterable[tuple[str, int]], within: str) -> Iterator[_ChapterFiles]:
    """Yield the files of each folder SUBSET/SPEAKER/CHAPTER."""
    for folder, members in groupby(listing, key=lambda file: file[0].rpartition("/")[0]):
        sizes = dict(members)
        parts = folder.removeprefix(within).split("/")
        if not folder.startswith(within) or len(parts) != 3 or parts[0].partition("-")[0] not in _SPLIT_OF_PREFIX:
            continue
        files = _ChapterFiles(folder)
        preferred = set(by_stem(sizes).values())  # one file per utterance, if it exists in several formats
        for path, size in sizes.items():
            name = path.rpartition("/")[2]
            if path in preferred:
                files.audio[name.rpartition(".")[0]] = path, size
            elif is_audio(name):
                files.copies += 1
            elif name.lower().endswith(".trans.txt"):
                files.transcripts.append(path)
        yield files


def _gaps(recording: Recording) -> list[str]:
    """Return which of `_GAPS` an utterance has."""
    known = recording.speaker_name, recording.book or recording.title, recording.text
    return [gap for gap, value in zip(_GAPS, known, strict=True) if not value]


def _read_speakers(root: Location, table: str, exclude: Sequence[str]) -> dict[str, _Speaker]:
    # ID | SEX | SUBSET | MINUTES | NAME; the name may contain a bar.
    return {row[0]: _Speaker(sex=row[1], name=row[4]) for row in _read_table(root, table, exclude, columns=5)}


def _read_chapters(root: Location, table: str, exclude: Sequence[str]) -> dict[str, _Chapter]:
    # ID | READER | MINUTES | SUBSET | PROJ. | BOOK ID | CH. TITLE | PROJECT TITLE
    return {row[0]: _Chapter(title=row[6], book=row[7]) for row in _read_table(root, table, exclude, columns=8)}


def _read_table(root: Location, table: str, exclude: Sequence[str], columns: int) -> list[list[str]]:
    if is_excluded(table, exclude) or not is_file(root / table):
        return []
    rows = []
    for line in _lines(root, table):
        if not line.startswith(";") and line.strip():
            cells = [cell.strip() for cell in line.split("|", columns - 1)]
            rows.append(cells + [""] * (columns - len(cells)))
    return rows


def _read_transcripts(root: Location, paths: list[str]) -> dict[str, str]:
    texts = {}
    for path in paths:
        for line in _lines(root, path):
            utterance, _, text = line.strip().partition(" ")
            if utterance:
                texts[utterance] = text
    return texts


def _lines(root: Location, path: str) -> list[str]:
    with open_below(root, path) as file:
        return file.read().decode("utf-8-sig", errors="replace").splitlines()
