"""YAML option files: read a verb's options with `--config`, and save the resolved options with a result."""

import dataclasses
import itertools
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml
from pydantic import TypeAdapter, ValidationError
from upath import UPath

from whisper_gpt.jobs.common.errors import UsageError, require
from whisper_gpt.manifests.location import Location, location
from whisper_gpt.manifests.publish import publish_bytes

T = TypeVar("T")


def default_from_file(config_type: type[T], arguments: Sequence[str]) -> tuple[T | None, list[str]]:
    """Remove `--config FILE` from `arguments`; return the dataclass it describes (None without it), and the rest.

    Required options that are missing in the file stay required on the command line. Raises `UsageError` if the file
    cannot be read, has unknown options, or has values of a wrong type.
    """
    rest = list(arguments)
    at = next((i for i, word in enumerate(rest) if word == "--config" or word.startswith("--config=")), None)
    if at is None:
        return None, rest
    word = rest.pop(at)
    require("=" in word or at < len(rest), "--config needs a file")
    path = Path(word.partition("=")[2] if "=" in word else rest.pop(at))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path}: not a readable YAML file ({error})") from error
    if not isinstance(content, dict):
        raise UsageError(f"--config {path}: expected `option: value` lines")
    fields = {field.name: field for field in dataclasses.fields(config_type)}  # type: ignore[arg-type]
    unknown = sorted(set(content) - set(fields))
    require(not unknown, f"--config {path}: no option {', '.join(unknown)}; the options are {', '.join(fields)}")
    hints = typing.get_type_hints(config_type)
    values = {name: _validated(value, hints[name], f"--config {path}: {name}") for name, value in content.items()}
    missing = {
        name: tyro.MISSING
        for name, field in fields.items()
        if name not in values and field.default is dataclasses.MISSING
    }
    return config_type(**values, **missing), rest


def local_word(word: str) -> str:
    """Replace `file:///folder` by `/folder` in a word of a command line or YAML file, also after `--option=`."""
    option, address = re.match(r"(--[\w-]+=)?(.*)", word, re.DOTALL).groups("")  # type: ignore[union-attr]
    return f"{option}{UPath(address).path}" if address.startswith("file://") else word


def local_path(word: str) -> Path:
    """Return `word` as a local path. Raises `ValueError` if it is an object store's address."""
    if "://" in word:
        raise ValueError(f"{word}: must be a local path")
    return Path(word)


def resume_with_saved_options(arguments: list[str], file_name: str) -> list[str]:
    """Return `arguments`; if --resume is among them, append `--config` with the file `file_name` in --out."""
    given = dict(itertools.pairwise(arguments))
    given |= dict(argument.split("=", 1) for argument in arguments if argument.startswith("--") and "=" in argument)
    saved = Path(given.get("--out", "")) / file_name
    if "--resume" in arguments and "--config" not in given and saved.is_file():
        return [*arguments, "--config", str(saved)]
    return arguments


def save_config(config: Any, path: Location, without: Sequence[str] = ()) -> None:
    """Write the resolved options of a verb, except those in `without`, as YAML for `--config`; paths are absolute."""
    plain = {name: _plain(value) for name, value in dataclasses.asdict(config).items() if name not in without}
    publish_bytes(path, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Path | UPath):
        return str(location(value))
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _validated(value: Any, hint: Any, where: str) -> Any:
    """Convert a YAML `value` to the type that the dataclass declares: text to a path, a list to a tuple."""
    listed = value if isinstance(value, list) else [value]
    words = [local_word(word) if isinstance(word, str) else word for word in listed]
    try:
        if Path in (hint, *typing.get_args(hint)):
            for word in words:
                local_path(str(word))
        return TypeAdapter(hint).validate_python(words if isinstance(value, list) else words[0])
    except ValidationError as error:
        raise UsageError(f"{where}: {error.errors()[0]['msg']}, found {value!r}") from error
    except ValueError as error:
        raise UsageError(f"{where}: {error}") from error
