"""SQL over a dataset's manifest: DuckDB scans the Parquet files in place, and has no access to anything else."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.failures import FAILURES_FOLDER
from whisper_gpt.manifests.fragments import MANIFEST_FOLDER, joined
from whisper_gpt.manifests.location import Location
from whisper_gpt.manifests.schema import FAILURES, SAMPLES

DEFAULT_COLUMNS = ("key", "duration_s", "speaker", "text", "source")
_TABLES = {"samples": (MANIFEST_FOLDER, SAMPLES), "failures": (FAILURES_FOLDER, FAILURES)}
_FETCHED = 1024

# A query can read only the registered tables: no file, no extension, no variable of this program. A query cannot change
# these settings. Without a temporary folder, a sort that exceeds the memory fails instead of leaving `.tmp` in the
# working directory.
_SEALED = {
    "temp_directory": "",  # cannot be set any more without external access
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "lock_configuration": "true",
}

# Speakers and chapters look like numbers, but are text: for `speaker = 19` DuckDB casts every speaker to a number, and
# fails at the first that is not one, such as the empty speaker of music. So numbers are quoted: a quoted number is cast
# to the type that it is compared with. It is correct for text, and also if a query gives one of these names to a
# number, and it can use the statistics in the Parquet files. Strings and comments match first and stay unchanged.
_TEXT_NAMES = "|".join(sorted({f.name for _, schema in _TABLES.values() for f in schema if pa.types.is_string(f.type)}))
_NUMBER_AGAINST_TEXT = re.compile(
    r"'(?:[^']|'')*'|--[^\n]*|"
    rf'\b(?:{_TEXT_NAMES})"?\s*(?:(?:==?|!=|<>)\s*\d+(?![\w.])|(?:\bnot\s+)?\bin\s*\(\s*\d+(?:\s*,\s*\d+)*\s*\))',
    re.IGNORECASE,
)


class QueryError(ManifestError):
    """A query cannot be answered; the one-line message says why, and what can be queried."""


@dataclass(frozen=True)
class Answer:
    """The result of a query; `rows` is read lazily, and may raise `QueryError`."""

    columns: list[str]
    rows: Iterator[tuple]


def is_whole(query: str) -> bool:
    """Return whether `query` is a complete query, not just a condition on `samples`."""
    return re.match(r"\s*(select|from|with)\b", query, re.IGNORECASE) is not None


def as_sql(query: str, columns: Sequence[str] = DEFAULT_COLUMNS) -> str:
    """Return a complete query, or turn a condition into a query for `columns` of the samples that meet it."""
    query = quoted_numbers(query)
    if is_whole(query):
        return query
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    return f"SELECT {names} FROM samples WHERE {query}"


def seal(connection: duckdb.DuckDBPyConnection) -> None:
    """Take from a connection the access to anything but its tables, for good."""
    for name, value in _SEALED.items():
        connection.execute(f"SET {name} = '{value}'")


def quoted_numbers(query: str) -> str:
    """Return `query` with quotes around the numbers that it compares with text columns."""
    return _NUMBER_AGAINST_TEXT.sub(_quote_numbers, query)


def ask(dataset: Location, sql: str) -> Answer:
    """Run one query over the tables `samples` and `failures` of a dataset. Raises `QueryError` if it fails."""
    connection = duckdb.connect(":memory:")
    seal(connection)
    for name, (folder, schema) in _TABLES.items():
        connection.register(name, joined(dataset, folder, "*.parquet", schema))
    try:
        statements = connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise QueryError("only a single read-only query is allowed")
        connection.execute(statements[0])
    except duckdb.Error as error:
        raise explained(error) from error
    return Answer(_distinct([column[0] for column in connection.description or []]), _rows(connection))


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple]:
    try:
        while rows := connection.fetchmany(_FETCHED):
            yield from rows
    except duckdb.Error as error:
        raise explained(error) from error


def _quote_numbers(match: re.Match[str]) -> str:
    if match[0].startswith(("'", "--")):
        return match[0]
    return re.sub(r"\b\d+\b", r"'\g<0>'", match[0])


def _distinct(names: Sequence[str]) -> list[str]:
    """Return `names` with a number appended to repeated ones: a join can have two columns of the same name."""
    return [f"{name}_{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def explained(error: duckdb.Error) -> QueryError:
    """Turn DuckDB's message into one line, without the query and the marker below it, and add advice."""
    message = " ".join(re.split(r"\n+LINE \d+:", str(error))[0].split())
    if isinstance(error, duckdb.BinderException) and "not found" in message:
        tables = (f"{name}: {', '.join(schema.names)}" for name, (_, schema) in _TABLES.items())
        return QueryError(f"{message}; columns of {'; of '.join(tables)}")
    if isinstance(error, duckdb.CatalogException | duckdb.ParserException):
        usage = "give a condition on samples, or SELECT, FROM or WITH over samples and failures"
        return QueryError(f"{message}; {usage}")
    if isinstance(error, duckdb.ConversionException):
        return QueryError(f"{message}; compare text columns (speaker, chapter) with quoted text: speaker = '19'")
    if isinstance(error, duckdb.InvalidInputException | duckdb.IOException):
        return QueryError(f"{message}; run whisper-gpt verify to see which files are damaged")
    return QueryError(message)
