"""Print a script that lets a shell complete verbs, options and their values.

bash: whisper-gpt completion bash > ~/.local/share/bash-completion/completions/whisper-gpt
zsh: whisper-gpt completion zsh > ~/.zfunc/_whisper-gpt, with ~/.zfunc in fpath before compinit
fish: whisper-gpt completion fish > ~/.config/fish/completions/whisper-gpt.fish
"""

import argparse
import importlib
import types
import typing
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import shtab
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.verbs import VERBS


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt completion`."""

    shell: Positional[Literal["bash", "zsh", "fish"]]
    """Shell to complete in."""


def run(config: Config) -> int:
    """Print the script; return exit code 0."""
    print(shtab.complete(_parser(), config.shell))
    return 0


def _parser() -> argparse.ArgumentParser:
    """Return a parser with the words of the command line, which is only good for completion."""
    parser = argparse.ArgumentParser("whisper-gpt")
    groups = {"": parser.add_subparsers()}
    made: dict[str, argparse.ArgumentParser] = {}
    for verb, (module, summary) in VERBS.items():
        first, _, second = verb.rpartition(" ")
        if first not in groups:
            groups[first] = made[first].add_subparsers()
        made[verb] = groups[first].add_parser(second, help=summary)
        options = importlib.import_module(f"whisper_gpt.{module}").Config
        hints = typing.get_type_hints(options)
        is_group = any(other.startswith(f"{verb} ") for other in VERBS)
        for option in fields(options):
            positional = "Positional" in str(option.type)
            if not (positional and is_group):  # its second word is completed as a verb
                _add(made[verb], option, hints[option.name], positional)
        _files(made[verb].add_argument("--config", help="a YAML file of the options"))
    return parser


def _add(parser: argparse.ArgumentParser, option: Field[Any], hint: Any, positional: bool) -> None:
    kinds = _kinds(hint)
    name = option.name.replace("_", "-")
    if bool in kinds:
        parser.add_argument(f"--{name}", action=argparse.BooleanOptionalAction)
        return
    choices = [value for value in kinds if isinstance(value, str | int) and not isinstance(value, bool)]
    many = any(typing.get_origin(kind) is tuple for kind in (hint, *typing.get_args(hint)))
    argument = parser.add_argument(
        option.name if positional else f"--{name}", nargs="*" if many else None, choices=choices or None
    )
    if Path in kinds or UPath in kinds:
        _files(argument)


def _kinds(hint: Any) -> list[Any]:
    """Return the plain types, and the values of literals, that a type consists of."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        return list(typing.get_args(hint))
    if origin in (typing.Union, types.UnionType, tuple, typing.Annotated):
        parts = typing.get_args(hint)[:1] if origin is typing.Annotated else typing.get_args(hint)
        return [kind for part in parts for kind in _kinds(part)]
    return [hint]


def _files(argument: argparse.Action) -> None:
    argument.complete = shtab.FILE  # type: ignore[attr-defined]
