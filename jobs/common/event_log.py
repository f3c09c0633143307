"""What a run did, as lines of JSON: which shard was begun, done, or lost its worker, and when."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from whisper_gpt.manifests.full_disk import naming_full_disk
from whisper_gpt.manifests.location import Location, is_remote

LOGS_FOLDER = "logs"  # of the runs, not of the dataset: the one place with paths, hosts and times
EVENTS_FILE = "events.jsonl"


class RunLog:
    """Appends events to a file, or nowhere."""

    def __init__(self, path: Path | None):
        self._path = path

    def write(self, event: str, **details: Any) -> None:
        """Append one event with the time of now. Raises `ManifestError` for a full disk."""
        if self._path:
            line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
            with naming_full_disk(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def run_log(dataset: Location) -> RunLog:
    """The log of a dataset's runs, each after the last. (In an object store, where nothing can be appended, none.)"""
    if is_remote(dataset):
        return RunLog(None)
    path = dataset / LOGS_FOLDER / EVENTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    return RunLog(path)
