"""The command line is frozen: an option comes, goes or changes its name only together with `options.txt`."""

import importlib
from dataclasses import fields
from pathlib import Path

from whisper_gpt.jobs import cli

FROZEN = Path(__file__).with_name("options.txt")


def test_the_options_of_every_verb_are_those_of_the_list() -> None:
    """If the change is meant, edit `options.txt` and name it in CHANGELOG.md."""
    found = [
        f"{verb} {'' if 'Positional' in str(field.type) else '--'}{field.name.replace('_', '-')}"
        for verb, (module, _) in cli.VERBS.items()
        for field in fields(importlib.import_module(f"whisper_gpt.{module}").Config)
    ]
    assert sorted(found) == FROZEN.read_text(encoding="utf-8").splitlines()
