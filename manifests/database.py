"""DuckDB over files that may be larger than memory: it sorts and joins them on disk."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import duckdb
import pyarrow as pa

# A table in memory, or Parquet files with its rows.
Rows: TypeAlias = pa.Table | Sequence[Path]

_MEMORY = "700MB"  # the process takes about 300 MB more
_THREADS = 8  # more would need more memory


@contextlib.contextmanager
def database(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Connect to an empty database that writes what exceeds its memory to the folder `scratch`."""
    threads = min(_THREADS, os.cpu_count() or 1)
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "temp_directory": str(scratch / "duckdb"),
        "threads": threads,
        "preserve_insertion_order": "false",
    }
    with contextlib.closing(duckdb.connect(":memory:", config=config)) as connection:
        yield connection


def attach(connection: duckdb.DuckDBPyConnection, name: str, rows: Rows) -> None:
    """Make `rows` the table `name`. Files are read by DuckDB itself, which takes less memory than reading by Arrow."""
    if isinstance(rows, pa.Table):
        connection.register(name, rows)
    else:
        files = ", ".join("'" + str(file).replace("'", "''") + "'" for file in rows)
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet([{files}])")
