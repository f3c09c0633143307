"""Turn the answers of a listening test into preferences with intervals."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.listening.answers import Preference, first_share, preferences, read_answers


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt listen score`."""

    key: Positional[Path]
    """The key.json that `whisper-gpt listen` wrote."""
    answers: Positional[tuple[Path, ...]]
    """The CSV files that listeners saved."""
    json: bool = False
    """Print JSON instead of a table."""


def run(config: Config) -> int:
    """Print the statistics; return exit code 0."""
    require(bool(config.answers), "pass the listeners' CSV files")
    try:
        key = json.loads(config.key.read_text(encoding="utf-8"))
        answers, repeated = read_answers(config.answers, key)
    except (ValueError, KeyError, TypeError) as error:
        raise JobError(f"{config.key}: not the key of a listening test ({error})") from error
    found, first = preferences(answers), first_share(answers)
    if config.json:
        print(
            json.dumps(
                {
                    "preferences": [asdict(preference) for preference in found],
                    "first_share": first,
                    "repeated": repeated,
                },
                indent=1,
            )
        )
        return 0
    table = Table(box=box.SIMPLE)
    for heading in ("system", "over", "share", "95 % interval", "p", "answers", "no difference"):
        table.add_column(heading)
    for preference in found:
        table.add_row(*_cells(preference))
    console = Console()
    console.print(table)
    listeners = len({answer.session for answer in answers})
    console.print(f"{listeners} listeners. The clip shown first was preferred in {first:.0%}.", soft_wrap=True)
    if repeated:
        console.print(
            f"{repeated} answers were left out: the same listener had answered the pair before", soft_wrap=True
        )
    return 0


def _cells(preference: Preference) -> list[str]:
    between = "–"
    if preference.interval:
        between = f"{preference.interval.low:.0%} to {preference.interval.high:.0%}, over {preference.over}"
    return [
        preference.system,
        preference.other,
        f"{preference.share:.1%}",
        between,
        f"{preference.p:.3f}" if preference.p is not None else "–",
        str(preference.answers),
        str(preference.ties),
    ]
