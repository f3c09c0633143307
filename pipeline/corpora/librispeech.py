"""LibriSpeech (openslr.org/12): SUBSET/SPEAKER/CHAPTER/*.flac, transcripts, tables of speakers and chapters.

The subset's name gives the split: train-* train, dev-* validation, test-* test. The audio may be in any format that
libsndfile reads. A folder without tables or transcripts (an incomplete download) still works: those fields stay empty,
with one warning.
"""

import json
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from whisper_gpt.manifests.location import Location, open_below
from whisper_gpt.pipeline.corpora.listing import by_stem, is_audio, list_source
from whisper_gpt.pipeline.corpora.recording import Recording, Scan, make_id
from whisper_gpt.pipeline.errors import PipelineError

_SPLIT_OF_PREFIX = {"train": "train", "dev": "validation", "test": "test"}
_READERS = 32


@dataclass(frozen=True)
class _Speaker:
    sex: str
    name: str


@dataclass(frozen=True)
class _Chapter:
    title: str
    book: str


@dataclass
class _ChapterFiles:
    audio: dict[str, str] = field(default_factory=dict)  # path by utterance
    transcripts: list[str] = field(default_factory=list)
    copies: int = 0  # files with an utterance in a second format


def scan(root: Location, corpus: str = "librispeech", exclude: Sequence[str] = ()) -> Scan:
    """List the utterances below `root`, except matches of `exclude`.

    `root` contains the subsets, or LibriSpeech/ with the subsets. Every id begins with `corpus`. Raises `PipelineError`
    if there is no LibriSpeech subset.
    """
    source = list_source(root, exclude)
    listing = source.files
    within = "LibriSpeech/" if any(path.startswith("LibriSpeech/") for path in listing) else ""
    chapters = _chapter_folders(listing, within)
    if not any(files.audio for files in chapters.values()):
        raise PipelineError(
            f"{root}: no audio of a LibriSpeech subset (train-*, dev-*, test-*); pass the unpacked folder"
        )
    speaker_table = _read_speakers(root, f"{within}SPEAKERS.TXT", listing)
    chapter_table = _read_chapters(root, f"{within}CHAPTERS.TXT", listing)
    with ThreadPoolExecutor(_READERS) as pool:  # one small file per chapter: mostly latency in an object store
        transcripts = list(pool.map(lambda files: _read_transcripts(root, files.transcripts), chapters.values()))
    recordings: list[Recording] = []
    absent: dict[str, str] = {}
    for (folder, files), texts in zip(chapters.items(), transcripts, strict=True):
        subset, speaker_id, chapter_id = folder.removeprefix(within).split("/")
        split = _SPLIT_OF_PREFIX[subset.partition("-")[0]]
        absent |= {f"{folder}/{utterance}.flac": split for utterance in texts.keys() - files.audio.keys()}
        speaker, chapter = speaker_table.get(speaker_id), chapter_table.get(chapter_id)
        for utterance, path in files.audio.items():
            recordings.append(
                Recording(
                    id=make_id(corpus, f"{subset}_{utterance}", path),
                    split=split,
                    path=path,
                    speaker=speaker_id,
                    speaker_name=speaker.name if speaker else "",
                    sex=speaker.sex if speaker else "",
                    chapter=chapter_id,
                    book=chapter.book if chapter else "",
                    title=chapter.title if chapter else "",
                    text=texts.get(utterance, ""),
                    extra=json.dumps({"subset": subset}),
                )
            )
    warnings = source.warnings + _warnings(recordings)
    if copies := sum(files.copies for files in chapters.values()):
        warnings.append(f"left out: {copies} files with an utterance in a second format")
    return Scan(corpus, sorted(recordings, key=lambda r: r.id), warnings, absent)


def transcript(audio: Path) -> str:
    """Return the text of the utterance in the file `audio` from its folder's .trans.txt, or "" if there is none."""
    tables = [path.name for path in sorted(audio.parent.glob("[!.]*.trans.txt"))]
    return _read_transcripts(audio.parent, tables).get(audio.stem, "")


def _chapter_folders(listing: Collection[str], within: str) -> dict[str, _ChapterFiles]:
    """Return the files of each SUBSET/SPEAKER/CHAPTER, by that path."""
    chapters: dict[str, _ChapterFiles] = {}
    preferred = set(by_stem(listing).values())  # one file per utterance, if it exists in several formats
    for path in listing:
        folder, _, name = path.rpartition("/")
        parts = folder.removeprefix(within).split("/")
        if not path.startswith(within) or len(parts) != 3 or parts[0].partition("-")[0] not in _SPLIT_OF_PREFIX:
            continue
        files = chapters.setdefault(folder, _ChapterFiles())
        if path in preferred:
            files.audio[name.rpartition(".")[0]] = path
        elif is_audio(name):
            files.copies += 1
        elif name.lower().endswith(".trans.txt"):
            files.transcripts.append(path)
    return chapters


def _warnings(recordings: list[Recording]) -> list[str]:
    """Return at most one warning: which fields stay empty, and for how many utterances."""
    gaps = {
        "speaker (SPEAKERS.TXT)": sum(not r.speaker_name for r in recordings),
        "chapter (CHAPTERS.TXT)": sum(not r.book and not r.title for r in recordings),
        "transcript (.trans.txt)": sum(not r.text for r in recordings),
    }
    parts = [f"{count} without a {gap}" for gap, count in gaps.items() if count]
    return [f"of {len(recordings)} utterances, {', '.join(parts)}: those fields stay empty"] if parts else []


def _read_speakers(root: Location, table: str, listing: Collection[str]) -> dict[str, _Speaker]:
    # ID | SEX | SUBSET | MINUTES | NAME; the name may contain a bar.
    return {row[0]: _Speaker(sex=row[1], name=row[4]) for row in _read_table(root, table, listing, columns=5)}


def _read_chapters(root: Location, table: str, listing: Collection[str]) -> dict[str, _Chapter]:
    # ID | READER | MINUTES | SUBSET | PROJ. | BOOK ID | CH. TITLE | PROJECT TITLE
    return {row[0]: _Chapter(title=row[6], book=row[7]) for row in _read_table(root, table, listing, columns=8)}


def _read_table(root: Location, table: str, listing: Collection[str], columns: int) -> list[list[str]]:
    if table not in listing:
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
