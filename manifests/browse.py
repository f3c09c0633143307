"""The samples of one dataset in memory, to filter, sort, page and count them: DuckDB, sealed as for `query`."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.failures import open_failures
from whisper_gpt.manifests.fragments import MANIFEST_FOLDER, joined
from whisper_gpt.manifests.location import Location, is_remote, list_files
from whisper_gpt.manifests.query import QueryError, explained, quoted_numbers, seal
from whisper_gpt.manifests.schema import SAMPLES
from whisper_gpt.manifests.statistics import Group, Histogram

# Hashes and places in the tars are read from a sample's fragment when it is shown; in memory they would take half.
COLUMNS = [name for name in SAMPLES.names if not name.endswith(("_sha256", "_offset", "_size"))]

_SCHEMA = pa.schema([SAMPLES.field(name) for name in COLUMNS])


@dataclass(frozen=True)
class Filter:
    """Which samples are shown: by an SQL condition ("" for none), allowed values of text columns, and inclusive ranges
    of numeric columns."""

    sql: str = ""
    values: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ranges: tuple[tuple[str, tuple[float, float]], ...] = ()


class Browser:
    """Answers about the samples of a dataset. Methods raise `QueryError` for an invalid SQL condition."""

    def __init__(self, dataset: Location):
        # Files are read in any order, which is faster: every query sorts its rows.
        config: dict[str, str | bool | int | float | list[str]] = {"preserve_insertion_order": "false"}
        self._connection = duckdb.connect(":memory:", config=config | {"temp_directory": ""})
        try:
            self._load(dataset)
            seal(self._connection)
        except duckdb.Error as error:
            raise explained(error) from error
        self.count = self.totals(Filter())[0]
        self.failures = open_failures(dataset).to_pylist()
        self.distinct = cache(self._distinct)

    def _load(self, dataset: Location) -> None:
        columns = ", ".join(f'"{name}"' for name in COLUMNS)
        names = [name for name in list_files(dataset / MANIFEST_FOLDER) if name.endswith(".parquet")]
        if is_remote(dataset) or not names:
            self._connection.register("fragments", joined(dataset, MANIFEST_FOLDER, "*.parquet", SAMPLES))
            self._connection.execute(f"CREATE TABLE samples AS SELECT {columns} FROM fragments")
            self._connection.unregister("fragments")
        else:  # more than twice as fast, with less memory
            files = [str(dataset / MANIFEST_FOLDER / name) for name in sorted(names)]
            self._connection.execute(f"CREATE TABLE samples AS SELECT {columns} FROM read_parquet(?)", [files])

    def totals(self, filter: Filter) -> tuple[int, float]:
        """Return the number of samples and their seconds."""
        ((count, seconds),) = self._rows("count(*), coalesce(sum(duration_s), 0)", filter)
        return count, seconds

    def page(self, filter: Filter, order: str, descending: bool, limit: int, offset: int) -> pa.Table:
        """Return `limit` rows from `offset` on, sorted by a column, then by key."""
        direction = "DESC" if descending else "ASC"
        tail = f'ORDER BY "{_known(order)}" {direction}, key LIMIT {int(limit)} OFFSET {int(offset)}'
        return _table(self._execute("*", filter, tail))

    def bins(self, column: str, filter: Filter, count: int = 30) -> Histogram:
        """Return the histogram of a numeric column, between its least and largest finite value."""
        column = _known(column)
        finite = f'FILTER (isfinite("{column}"::DOUBLE))'
        ((low, high),) = self._rows(f'min("{column}") {finite}, max("{column}") {finite}', filter)
        if low is None:
            return Histogram([], [])
        width = (high - low) / count or 1.0
        place = f'least({count - 1}, floor(("{column}"::DOUBLE - {low!r}) / {width!r}))::INT'
        rows = self._rows(f"{place} AS place, count(*) {finite}", filter, "GROUP BY place")
        counts = [0] * count
        for index, number in rows:
            if index is not None and 0 <= index < count:
                counts[index] += number
        return Histogram((low + width * np.arange(count + 1)).tolist(), counts)

    def groups(self, column: str, filter: Filter, limit: int = 30) -> list[Group]:
        """Return samples and seconds by the values of a text column, the commonest first; "" is left out."""
        column = _known(column)
        tail = f'GROUP BY "{column}" HAVING "{column}" <> \'\' ORDER BY count(*) DESC, "{column}" LIMIT {int(limit)}'
        return [Group(*row) for row in self._rows(f'"{column}", count(*), sum(duration_s)', filter, tail)]

    def _distinct(self, column: str) -> list[str]:
        """Return all values of a text column, sorted, but for ""."""
        return [group.name for group in sorted(self.groups(column, Filter(), 1_000_000), key=lambda group: group.name)]

    def segments(self, corpus: str, source: str) -> list[dict[str, Any]]:
        """Return the samples of one recording of a corpus, in order."""
        rows = self._connection.cursor().execute(
            "SELECT * FROM samples WHERE corpus = ? AND source = ? ORDER BY start_s", [corpus, source]
        )
        return _table(rows).to_pylist()

    def sample(self, key: str) -> dict[str, Any] | None:
        """Return a sample's row, or None if there is none of that key."""
        rows = _table(self._connection.cursor().execute("SELECT * FROM samples WHERE key = ?", [key])).to_pylist()
        return rows[0] if rows else None

    def _rows(self, what: str, filter: Filter, tail: str = "") -> list[tuple]:
        return self._execute(what, filter, tail).fetchall()

    def _execute(self, what: str, filter: Filter, tail: str = "") -> duckdb.DuckDBPyConnection:
        where, parameters = _where(filter)
        try:
            cursor = self._connection.cursor()  # for this thread
            statements = cursor.extract_statements(f"SELECT {what} FROM samples WHERE {where} {tail}")
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise QueryError("only a condition on samples is allowed, such as duration_s > 10")
            return cursor.execute(statements[0], parameters)
        except duckdb.Error as error:
            raise explained(error) from error


def _table(result: duckdb.DuckDBPyConnection) -> pa.Table:
    """Return a small result as a table."""
    names = [column[0] for column in result.description or []]
    return pa.Table.from_pylist([dict(zip(names, row, strict=True)) for row in result.fetchall()], _SCHEMA)


def _where(filter: Filter) -> tuple[str, list[Any]]:
    """Return a WHERE clause, and the values of its parameters."""
    conditions, parameters = ["true"], list[Any]()
    if filter.sql.strip():
        # On a line of its own: the condition may end in a comment.
        conditions.append(f"(\n{quoted_numbers(filter.sql)}\n)")
    for column, allowed in filter.values:
        conditions.append(f'"{_known(column)}" IN (SELECT unnest(?))')
        parameters.append(list(allowed))
    for column, (low, high) in filter.ranges:
        conditions.append(f'"{_known(column)}" BETWEEN ? AND ?')
        parameters += [low, high]
    return " AND ".join(conditions), parameters


def _known(column: str) -> str:
    if column not in COLUMNS:
        raise ManifestError(f"{column}: not a column of the manifest")
    return column
