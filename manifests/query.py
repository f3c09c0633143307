"""SQL over a dataset's manifest: DuckDB scans the Parquet files where they lie, and can touch nothing else."""

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

# A query can read the registered tables only: no file, no extension, no variable of this program. The lock keeps it so.
# Without a folder for temporary files a sort that outgrows the memory fails, instead of leaving `.tmp` where we are.
_SEALED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "temp_directory": "",
    "lock_configuration": "true",
}

# Speakers and chapters look like numbers, but are text: for `speaker = 19` DuckDB casts every speaker to a number, and
# fails at the first that is none, as the empty ones of music. A quoted number adapts to what it is compared with
# instead, so that it is right for text, still right where a query gives a number one of these names, and is compared
# with the statistics in the Parquet files. Strings and comments are matched first, and left as they are.
_TEXT_NAMES = "|".join(sorted({f.name for _, schema in _TABLES.values() for f in schema if pa.types.is_string(f.type)}))
_NUMBER_AGAINST_TEXT = re.compile(
    r"'(?:[^']|'')*'|--[^\n]*|"
    rf'\b(?:{_TEXT_NAMES})"?\s*(?:(?:==?|!=|<>)\s*\d+(?![\w.])|(?:\bnot\s+)?\bin\s*\(\s*\d+(?:\s*,\s*\d+)*\s*\))',
    re.IGNORECASE,
)


class QueryError(ManifestError):
    """A query cannot be answered: the message says in one line why, and what there is to ask."""


@dataclass(frozen=True)
class Answer:
    """The rows that a query found, which are read as they are asked for (raising `QueryError`)."""

    columns: list[str]
    rows: Iterator[tuple]


def is_whole(query: str) -> bool:
    """Whether `query` is a query of its own, rather than a condition on `samples`."""
    return re.match(r"\s*(select|from|with)\b", query, re.IGNORECASE) is not None


def as_sql(query: str, columns: Sequence[str] = DEFAULT_COLUMNS) -> str:
    """A whole query as it is, a condition as the query for `columns` of the samples that meet it."""
    query = _NUMBER_AGAINST_TEXT.sub(_quote_numbers, query)
    if is_whole(query):
        return query
    names = ", ".join('"' + name.replace('"', '""') + '"' for name in columns)
    return f"SELECT {names} FROM samples WHERE {query}"


def ask(dataset: Location, sql: str) -> Answer:
    """Run one query over the tables `samples` and `failures` of a dataset. Raises `QueryError`."""
    connection = duckdb.connect(":memory:", config=_SEALED)
    for name, (folder, schema) in _TABLES.items():
        connection.register(name, joined(dataset, folder, "*.parquet", schema))
    try:
        statements = connection.extract_statements(sql)
        if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
            raise QueryError("only one query at a time, and one that only reads, can be asked")
        connection.execute(statements[0])
    except duckdb.Error as error:
        raise _explained(error) from error
    return Answer(_distinct([column[0] for column in connection.description or []]), _rows(connection))


def _rows(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple]:
    try:
        while found := connection.fetchmany(_FETCHED):
            yield from found
    except duckdb.Error as error:
        raise _explained(error) from error


def _quote_numbers(match: re.Match[str]) -> str:
    if match[0].startswith(("'", "--")):
        return match[0]
    return re.sub(r"\b\d+\b", r"'\g<0>'", match[0])


def _distinct(names: Sequence[str]) -> list[str]:
    """`names` with a number after those that were there before: a join has columns of one name."""
    return [f"{name}_{names[:i].count(name)}" if name in names[:i] else name for i, name in enumerate(names)]


def _explained(error: duckdb.Error) -> QueryError:
    """DuckDB's own words in one line, without its drawing of the place, and what helps."""
    words = " ".join(re.split(r"\n+LINE \d+:", str(error))[0].split())
    if isinstance(error, duckdb.BinderException) and "not found" in words:
        tables = (f"{name}: {', '.join(schema.names)}" for name, (_, schema) in _TABLES.items())
        return QueryError(f"{words}; columns of {'; of '.join(tables)}")
    if isinstance(error, duckdb.CatalogException | duckdb.ParserException):
        return QueryError(f"{words}; ask a condition on samples, or SELECT, FROM or WITH over samples and failures")
    if isinstance(error, duckdb.ConversionException):
        return QueryError(f"{words}; text, as in speaker and chapter, is compared with quoted text: speaker = '19'")
    if isinstance(error, duckdb.InvalidInputException | duckdb.IOException):
        return QueryError(f"{words}; whisper-gpt verify names the files that are damaged")
    return QueryError(words)
