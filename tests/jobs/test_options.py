"""The command line is frozen: an option may be added, removed or renamed only together with `options.txt`."""

import importlib
from dataclasses import fields
from pathlib import Path

from whisper_gpt.jobs.common.verbs import VERBS

FROZEN = Path(__file__).with_name("options.txt")


def test_options_match_the_frozen_list() -> None:
    """If a change is intended, edit `options.txt` and mention it in CHANGELOG.md."""
    options = [
        f"{verb} {'' if 'Positional' in str(field.type) else '--'}{field.name.replace('_', '-')}"
        for verb, (module, _) in VERBS.items()
        for field in fields(importlib.import_module(f"whisper_gpt.{module}").Config)
    ]
    assert sorted(options) == FROZEN.read_text(encoding="utf-8").splitlines()
