"""MAESTRO v1, v2, v3 (magenta.tensorflow.org/datasets/maestro): a csv that names every performance and its split.

Rows whose audio is absent are listed, not failed: people keep parts of a 120 GB corpus.
"""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from whisper_gpt.manifests.location import Location, open_below
from whisper_gpt.pipeline.corpora.listing import by_stem, list_source
from whisper_gpt.pipeline.corpora.recording import SPLITS, Recording, Scan
from whisper_gpt.pipeline.errors import PipelineError

_COLUMNS = ("canonical_composer", "canonical_title", "split", "year", "midi_filename", "audio_filename")


def scan(root: Location, corpus: str = "maestro", exclude: Sequence[str] = ()) -> Scan:
    """List the performances of the csv in `root` (or in its one maestro-v*/ folder), but for what `exclude` matches.

    A performance may be in another format than the csv says, with another extension.
    Ids are year and row of the csv, as MAESTRO's own names are too long for a tar member.
    Raises `PipelineError` for no csv, more than one, or one that is not MAESTRO's.
    """
    source = list_source(root, exclude)
    files, audio = source.files, by_stem(source.files)
    table = _find_table(root, files)
    beside = PurePosixPath(table).parent
    recordings: list[Recording] = []
    absent: dict[str, str] = {}
    for number, row in enumerate(_read_rows(root, table), start=1):
        named = (beside / row["audio_filename"]).as_posix()
        path = named if named in files else audio.get(named.rpartition(".")[0])
        if path is None:
            absent[named] = row["split"]
            continue
        recordings.append(
            Recording(
                id=f"{corpus}_{row['year']}_{number:04d}",
                split=row["split"],
                path=path,
                composer=row["canonical_composer"],
                title=row["canonical_title"],
                year=int(row["year"]),
                midi=row["midi_filename"],
            )
        )
    if not recordings:
        raise PipelineError(
            f"{root / table}: none of its {len(absent)} audio files is there; unpack the audio beside it"
        )
    return Scan(corpus, sorted(recordings, key=lambda r: r.id), source.warnings, absent)


def _find_table(root: Location, files: Iterable[str]) -> str:
    tables = [path for path in files if re.fullmatch(r"(maestro-v[^/]*/)?maestro-v[^/]*\.csv", path)]
    tables = [path for path in tables if "/" not in path] or tables
    if len(tables) != 1:
        found = ", ".join(tables) or "none"
        raise PipelineError(f"{root}: expected one maestro-v*.csv in here, found {found}; pass the unpacked folder")
    return tables[0]


def _read_rows(root: Location, path: str) -> list[dict[str, str]]:
    table = root / path
    try:
        with open_below(root, path) as file:
            reader = csv.DictReader(io.StringIO(file.read().decode("utf-8-sig"), newline=""))
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise PipelineError(f"{table}: no column {', '.join(missing)}; this is not MAESTRO's csv")
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{table}: not a csv in UTF-8 ({error}); unpack it again") from error
    for number, row in enumerate(rows, start=1):
        audio, year = PurePosixPath(row["audio_filename"] or "."), str(row["year"])
        inside = audio.name and not audio.is_absolute() and ".." not in audio.parts
        if row["split"] not in SPLITS or not (year.isdecimal() and len(year) == 4) or not inside:
            raise PipelineError(
                f"{table}: row {number} has split {row['split']!r}, year {row['year']!r}, audio "
                f"{row['audio_filename']!r}; expected train, validation or test, a year, and a path beside the csv"
            )
    return rows
