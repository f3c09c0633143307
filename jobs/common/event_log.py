"""The event log of a run, as JSON lines: when each shard was begun, was done, or lost its worker."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whisper_gpt.manifests.full_disk import naming_full_disk
from whisper_gpt.manifests.location import Location, is_remote

LOGS_FOLDER = "logs"  # logs of runs, not part of the dataset: the only place with paths, hosts and times
EVENTS_FILE = "events.jsonl"


class RunLog:
    """Appends events to a file, or discards them if there is none."""

    def __init__(self, path: Path | None):
        self._path = path

    def write(self, event: str, **details: Any) -> None:
        """Append one event with the current time. Raises `ManifestError` if the disk is full."""
        if self._path:
            line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
            with naming_full_disk(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def run_log(dataset: Location) -> RunLog:
    """Return the log of a dataset's runs, to append to. (Object stores cannot append: there it discards events.)"""
    if is_remote(dataset):
        return RunLog(None)
    path = dataset / LOGS_FOLDER / EVENTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    return RunLog(path)
