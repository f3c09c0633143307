"""What differs between a plan and a later listing of its corpus; both may be larger than memory."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import duckdb
import pyarrow as pa

from whisper_gpt.manifests.database import Rows, attach, database, quoted
from whisper_gpt.pipeline.corpora.recording import Recording

_DESCRIPTION = [field.name for field in fields(Recording) if field.name != "path"]
_IN_WORDS = {
    "added": "new",
    "gone": "gone",
    "changed": "changed",
    "described": "different in the corpus metadata or in another split",
}


@dataclass(frozen=True)
class Change:
    """How many sources changed in one way, and the path of one of them."""

    sources: int
    example: str


@dataclass(frozen=True)
class SourceChanges:
    """The sources that differ between a plan and a later listing, by the kind of difference.

    added and gone; changed: another size (a worker refuses another content of the same size); described: different
    metadata in the corpus tables, or another split.
    """

    kinds: dict[str, Change]

    def in_words(self) -> list[str]:
        """Describe each kind of change in a clause; return an empty list if nothing changed."""
        return [
            f"{self.kinds[kind].sources} source files are {words} (such as {self.kinds[kind].example})"
            for kind, words in _IN_WORDS.items()
            if kind in self.kinds
        ]


def source_changes(parts: Sequence[Rows], found: Rows, scratch: Path, failed: Sequence[str] = ()) -> SourceChanges:
    """Compare `found` recordings and their sizes with a plan's parts, in their order: if a source was planned twice,
    its later row counts. A source that `failed` may be changed or gone. Folder `scratch` takes what does not fit into
    memory."""
    with _compared(parts, found, scratch) as connection:
        connection.register("failed", pa.table({"path": pa.array(failed, pa.string())}))
        rows = connection.execute(
            """
            SELECT kind, count(*), min(path) FROM (
                SELECT coalesce(plan.path, found.path) AS path,
                    CASE WHEN plan.path IS NULL THEN 'added'
                         WHEN found.path IS NULL THEN 'gone'
                         WHEN plan.size_bytes <> found.size_bytes THEN 'changed'
                         ELSE 'described' END AS kind
                FROM plan FULL JOIN found ON plan.path = found.path
                WHERE plan.path IS NULL OR found.path IS NULL OR plan.size_bytes <> found.size_bytes
                    OR plan.description <> found.description
            ) WHERE kind NOT IN ('changed', 'gone') OR path NOT IN (SELECT path FROM failed)
            GROUP BY kind
            """
        ).fetchall()
    return SourceChanges({kind: Change(sources, example) for kind, sources, example in rows})


def write_chosen(
    parts: Sequence[Rows], found: Rows, scratch: Path, file: Path, new: bool, paths: Sequence[str]
) -> None:
    """Write the `found` recordings at `paths`, and the `new` ones, which are in no part, to the Parquet file `file`."""
    with _compared(parts, found, scratch) as connection:
        connection.register("chosen", pa.table({"path": pa.array(paths, pa.string())}))
        among_new = "OR path NOT IN (SELECT path FROM plan)" if new else ""
        connection.execute(
            f"COPY (SELECT * FROM all_found WHERE path IN (SELECT path FROM chosen) {among_new}) "
            f"TO {quoted(str(file))} (FORMAT parquet)"
        )


@contextlib.contextmanager
def _compared(parts: Sequence[Rows], found: Rows, scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to a database of the tables `plan` and `found`: path, size, and a hash of the description, which keeps
    the rows that are joined short. The whole rows found are `all_found`."""
    narrow = f"path, size_bytes, md5(concat_ws(chr(31), {', '.join(_DESCRIPTION)})) AS description"
    with database(scratch) as connection:
        attach(connection, "all_found", found)
        for i, part in enumerate(parts):
            attach(connection, f"part{i}", part)
        plan = " UNION ALL ".join(
            f"SELECT {narrow} FROM part{i}"
            + "".join(f" ANTI JOIN part{j} USING (path)" for j in range(i + 1, len(parts)))
            for i in range(len(parts))
        )
        connection.execute(f"CREATE VIEW plan AS {plan}")
        connection.execute(f"CREATE VIEW found AS SELECT {narrow} FROM all_found")
        yield connection
