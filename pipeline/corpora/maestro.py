"""MAESTRO v1, v2, v3 (magenta.tensorflow.org/datasets/maestro): a csv lists every performance and its split.

Rows without audio are listed as absent, not as failures, because people keep only parts of a 120 GB corpus.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath

from whisper_gpt.manifests.location import Location, open_below
from whisper_gpt.pipeline.corpora.listing import by_stem, list_source
from whisper_gpt.pipeline.corpora.recording import SPLITS, Found, Notes, Recording, Scan, collect
from whisper_gpt.pipeline.errors import PipelineError

_COLUMNS = ("canonical_composer", "canonical_title", "split", "year", "midi_filename", "audio_filename")


def find(root: Location, corpus: str, exclude: Sequence[str], notes: Notes) -> Iterator[Found]:
    """Yield the performances in the csv of `root` (or of its one maestro-v*/ folder), except matches of `exclude`.

    The audio may have another format and extension than in the csv. Ids are year and row of the csv, because MAESTRO's
    file names are too long for a tar member. Raises `PipelineError` if there is no csv, if there are several, or if it
    is not MAESTRO's.
    """
    files = dict(list_source(root, exclude, notes))
    audio, table = by_stem(files), _find_table(root, files)
    folder = PurePosixPath(table).parent
    rows = _read_rows(root, table)
    for number, row in enumerate(rows, start=1):
        listed = (folder / row["audio_filename"]).as_posix()
        path = listed if listed in files else audio.get(listed.rpartition(".")[0])
        if path is None:
            notes.absent[listed] = row["split"]
            continue
        recording = Recording(
            id=f"{corpus}_{row['year']}_{number:04d}",
            split=row["split"],
            path=path,
            composer=row["canonical_composer"],
            title=row["canonical_title"],
            year=int(row["year"]),
            midi=row["midi_filename"],
        )
        yield Found(recording, files[path])
    if len(notes.absent) == len(rows):
        raise PipelineError(
            f"{root / table}: none of its {len(rows)} audio files exists; unpack the audio next to the csv"
        )


def scan(root: Location, corpus: str = "maestro", exclude: Sequence[str] = ()) -> Scan:
    """Return everything that `find` yields, sorted by id."""
    return collect(find, root, corpus, exclude)


def _find_table(root: Location, files: Iterable[str]) -> str:
    tables = [path for path in files if re.fullmatch(r"(maestro-v[^/]*/)?maestro-v[^/]*\.csv", path)]
    tables = [path for path in tables if "/" not in path] or tables
    if len(tables) != 1:
        names = ", ".join(tables) or "none"
        raise PipelineError(f"{root}: expected one maestro-v*.csv, found {names}; pass the unpacked folder")
    return tables[0]


def _read_rows(root: Location, path: str) -> list[dict[str, str]]:
    table = root / path
    try:
        with open_below(root, path) as file:
            reader = csv.DictReader(io.StringIO(file.read().decode("utf-8-sig"), newline=""))
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise PipelineError(f"{table}: missing columns: {', '.join(missing)}; this is not MAESTRO's csv")
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PipelineError(f"{table}: not a UTF-8 csv ({error}); unpack it again") from error
    for number, row in enumerate(rows, start=1):
        audio, year = PurePosixPath(row["audio_filename"] or "."), str(row["year"])
        inside = audio.name and not audio.is_absolute() and ".." not in audio.parts
        if row["split"] not in SPLITS or not (year.isdecimal() and len(year) == 4) or not inside:
            raise PipelineError(
                f"{table}: row {number} has split {row['split']!r}, year {row['year']!r}, audio "
                f"{row['audio_filename']!r}; expected train, validation or test, a year, and a path below its folder"
            )
    return rows
