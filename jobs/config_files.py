"""YAML beside the command line: a verb's options read from a file, and the resolved ones saved beside a result."""

import dataclasses
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from jobs.errors import JobError

T = TypeVar("T")


def default_from_file(config_type: type[T], arguments: Sequence[str]) -> tuple[T | None, list[str]]:
    """Take `--config FILE` out of `arguments` → the dataclass it describes (None without one), and the rest.

    Required options that the file leaves out stay required on the command line. Raises `JobError` for a file that
    cannot be read, and for names in it that the verb does not have.
    """
    rest = list(arguments)
    if "--config" not in rest:
        return None, rest
    at = rest.index("--config")
    if at + 1 >= len(rest):
        raise JobError("--config needs a file")
    path = Path(rest[at + 1])
    del rest[at : at + 2]
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise JobError(f"--config {path}: not a readable YAML file ({error})") from error
    if not isinstance(content, dict):
        raise JobError(f"--config {path}: expected `option: value` lines")
    fields = {field.name: field for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - set(fields))
    if unknown:
        raise JobError(f"--config {path}: no option {', '.join(unknown)}; there are {', '.join(fields)}")
    hints = typing.get_type_hints(config_type)
    values = {name: _typed(value, hints[name]) for name, value in content.items()}
    missing = {
        name: tyro.MISSING
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING
    }
    return config_type(**values, **missing), rest


def save_config(config: Any, path: Path) -> None:
    """Write the resolved options of a verb as YAML that `--config` reads back."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: _plain(value) for name, value in dataclasses.asdict(config).items()}
    path.write_text(yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _typed(value: Any, hint: Any) -> Any:
    """YAML's text and lists as the paths and tuples that the dataclass declares."""
    wanted = (hint, *typing.get_args(hint))
    if isinstance(value, str) and Path in wanted:
        return Path(value)
    if isinstance(value, list):
        return tuple(Path(v) if Path in wanted else v for v in value)
    return value
