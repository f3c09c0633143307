"""Query a dataset's manifest in SQL: the samples that meet a condition, or any SELECT over samples and failures."""

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import require
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import location
from whisper_gpt.manifests.query import DEFAULT_COLUMNS, Answer, as_sql, ask, is_whole


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt query`."""

    dataset: Positional[UPath]
    """Folder, or s3:// or gs:// prefix, of a dataset made by `preprocess`."""
    sql: Positional[str]
    """A condition on the samples, such as "speaker = 19 and duration_s > 10"; or a read-only query over the tables
    samples and failures that begins with SELECT, FROM or WITH."""
    columns: tuple[str, ...] | None = None
    """Columns to show if SQL is a condition (by default key, duration_s, speaker, text, source)."""
    limit: int = 20
    """Number of rows to show; 0 shows all."""
    json: bool = False
    """Print one JSON object per row, for all rows, instead of a table."""


def run(config: Config) -> int:
    """Print the matching rows; return exit code 0."""
    require(config.limit >= 0, f"--limit {config.limit}: must not be below zero")
    whole = is_whole(config.sql)
    require(not (whole and config.columns), "--columns needs a condition; a whole query names its columns itself")
    dataset = location(config.dataset)
    read_info(dataset)  # raises a clear error if this is not a dataset
    answer = ask(dataset, as_sql(config.sql, config.columns or DEFAULT_COLUMNS))
    if config.json:
        _print_json(answer)
    else:
        _print_table(answer, config.limit, Console())
    return 0


def _print_json(answer: Answer) -> None:
    for row in answer.rows:
        plain_row = {name: _plain(value) for name, value in zip(answer.columns, row, strict=True)}
        print(json.dumps(plain_row, ensure_ascii=False, default=str))  # str: dates


def _plain(value: Any) -> Any:
    """Convert `value` for JSON, which has no Decimal (DuckDB's type of 1.5), no NaN and no infinity."""
    if isinstance(value, Decimal):
        return float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _print_table(answer: Answer, limit: int, console: Console) -> None:
    total, first_rows = 0, []
    for row in answer.rows:
        total += 1
        if not limit or total <= limit:
            first_rows.append(row)
    if first_rows:
        table = Table(*(Column(escape(name), overflow="fold") for name in answer.columns))
        for column, value in zip(table.columns, first_rows[0], strict=True):
            column.justify = "right" if isinstance(value, int | float | Decimal) else "left"
        for row in first_rows:
            table.add_row(*map(_cell, row))
        console.print(table)
    counted = "1 row" if total == 1 else f"{total:,} rows"
    if len(first_rows) < total:
        counted = f"{len(first_rows):,} of {counted}, --limit 0 shows all"
    console.print(counted, highlight=False)


def _cell(value: Any) -> str:
    """Format `value` for the table: floats with three decimals (milliseconds) or three significant digits."""
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or abs(value) >= 1 else f"{value:.3g}"
    return "" if value is None else escape(str(value))
