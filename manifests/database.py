"""DuckDB over files that may be larger than memory: it joins and groups them on disk."""

import contextlib
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa

from whisper_gpt.manifests.errors import ManifestError

# A table in memory, or Parquet files with its rows.
Rows: TypeAlias = pa.Table | Sequence[Path]

_MEMORY = "700MB"  # the process takes about 300 MB more
_THREADS = 4  # each needs memory of its own


@contextlib.contextmanager
def database(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to an empty database that writes what exceeds its memory to the folder `scratch`.

    Queries should be narrow: a sort or a join of long texts needs more memory than there is. Raises `ManifestError` for
    what fails within the block, such as a full disk.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "temp_directory": str(scratch / "duckdb"),
        "threads": min(_THREADS, os.cpu_count() or 1),
        "preserve_insertion_order": "false",
    }
    try:
        with contextlib.closing(duckdb.connect(":memory:", config=config)) as connection:
            yield connection
    except duckdb.Error as error:
        reason = " ".join(str(error).split("\n")[0].split())
        raise ManifestError(f"DuckDB, with its temporary files in {scratch}: {reason}") from error


def attach(connection: duckdb.DuckDBPyConnection, name: str, rows: Rows) -> None:
    """Make `rows` the table `name`. Files are read by DuckDB itself, which takes less memory than reading by Arrow."""
    if isinstance(rows, pa.Table):
        connection.register(name, rows)
    else:
        files = ", ".join(quoted(glob.escape(str(file))) for file in rows)
        # Names of folders mean nothing: without this, one named `split=test` would be a column.
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}], hive_partitioning = false)")


def quoted(text: str) -> str:
    """Return `text` as a string of SQL."""
    return "'" + text.replace("'", "''") + "'"
