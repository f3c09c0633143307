"""LibriSpeech (openslr.org/12): SUBSET/SPEAKER/CHAPTER/*.flac, transcripts, tables of speakers and chapters.

Splits follow the subset's name: train-* → train, dev-* → validation, test-* → test. A tree without tables or
transcripts (an incomplete download) still works: those fields stay empty, and one warning says so.
"""

from dataclasses import dataclass
from pathlib import Path

from pipeline.corpora.recording import Recording, Scan, make_id
from pipeline.errors import PipelineError

_SPLIT_OF_PREFIX = {"train": "train", "dev": "validation", "test": "test"}


@dataclass(frozen=True)
class _Speaker:
    sex: str
    name: str


@dataclass(frozen=True)
class _Chapter:
    title: str
    book: str


def scan(root: Path, corpus: str = "librispeech") -> Scan:
    """List the utterances below `root`, the folder that holds the subsets or the one that holds LibriSpeech/.

    `corpus` begins every id. Raises `PipelineError` where there is no LibriSpeech subset.
    """
    home = root / "LibriSpeech" if (root / "LibriSpeech").is_dir() else root
    subsets = [
        folder
        for folder in sorted(home.iterdir())
        if folder.is_dir() and folder.name.partition("-")[0] in _SPLIT_OF_PREFIX
    ]
    if not subsets:
        raise PipelineError(f"{root}: no LibriSpeech subset (train-*, dev-*, test-*) in here; pass the unpacked folder")
    speakers = _read_speakers(home / "SPEAKERS.TXT")
    chapters = _read_chapters(home / "CHAPTERS.TXT")
    recordings: list[Recording] = []
    absent: dict[str, str] = {}
    for subset in subsets:
        split = _SPLIT_OF_PREFIX[subset.name.partition("-")[0]]
        for chapter_folder in sorted(subset.glob("*/*/")):
            transcripts = _read_transcripts(chapter_folder)
            files = {file.stem: file for file in sorted(chapter_folder.glob("*.flac"))}
            for utterance in transcripts.keys() - files.keys():
                absent[(chapter_folder / f"{utterance}.flac").relative_to(root).as_posix()] = split
            for utterance, file in files.items():
                speaker_id, chapter_id = chapter_folder.parent.name, chapter_folder.name
                speaker, chapter = speakers.get(speaker_id), chapters.get(chapter_id)
                path = file.relative_to(root).as_posix()
                recordings.append(
                    Recording(
                        id=make_id(corpus, f"{subset.name}_{utterance}", path),
                        split=split,
                        path=path,
                        speaker=speaker_id,
                        speaker_name=speaker.name if speaker else "",
                        sex=speaker.sex if speaker else "",
                        chapter=chapter_id,
                        book=chapter.book if chapter else "",
                        title=chapter.title if chapter else "",
                        text=transcripts.get(utterance, ""),
                    )
                )
    if not recordings:
        raise PipelineError(f"{root}: LibriSpeech subsets without a single .flac; pass the unpacked folder")
    return Scan(corpus, sorted(recordings, key=lambda r: r.id), _warnings(recordings), absent)


def _warnings(recordings: list[Recording]) -> list[str]:
    """One line at most: which fields stay empty, and for how many utterances."""
    gaps = {
        "speaker (SPEAKERS.TXT)": sum(not r.speaker_name for r in recordings),
        "chapter (CHAPTERS.TXT)": sum(not r.book and not r.title for r in recordings),
        "transcript (.trans.txt)": sum(not r.text for r in recordings),
    }
    parts = [f"{count} without a {what}" for what, count in gaps.items() if count]
    return [f"of {len(recordings)} utterances, {', '.join(parts)}: those fields stay empty"] if parts else []


def _read_speakers(table: Path) -> dict[str, _Speaker]:
    # ID | SEX | SUBSET | MINUTES | NAME; the name may itself hold a bar.
    return {row[0]: _Speaker(sex=row[1], name=row[4]) for row in _read_table(table, columns=5)}


def _read_chapters(table: Path) -> dict[str, _Chapter]:
    # ID | READER | MINUTES | SUBSET | PROJ. | BOOK ID | CH. TITLE | PROJECT TITLE
    return {row[0]: _Chapter(title=row[6], book=row[7]) for row in _read_table(table, columns=8)}


def _read_table(table: Path, columns: int) -> list[list[str]]:
    if not table.is_file():
        return []
    rows = []
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.startswith(";") and line.strip():
            cells = [cell.strip() for cell in line.split("|", columns - 1)]
            rows.append(cells + [""] * (columns - len(cells)))
    return rows


def _read_transcripts(chapter_folder: Path) -> dict[str, str]:
    texts = {}
    for file in sorted(chapter_folder.glob("*.trans.txt")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            utterance, _, text = line.strip().partition(" ")
            if utterance:
                texts[utterance] = text
    return texts
