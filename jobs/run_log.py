"""What a run did, as lines of JSON: which shard was begun, done, or lost its worker, and when."""

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, TextIO

from whisper_gpt.manifests.location import Location, is_remote

LOGS_FOLDER = "logs"  # of the runs, not of the dataset: the one place with paths, hosts and times
EVENTS_FILE = "events.jsonl"


class RunLog:
    """Appends events to a file, or nowhere."""

    def __init__(self, file: TextIO | None):
        self._file = file

    def write(self, event: str, **details: Any) -> None:
        """Append one event with the time of now."""
        if self._file:
            line = {"at": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **details}
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()


@contextlib.contextmanager
def run_log(dataset: Location) -> Iterator[RunLog]:
    """The log of a dataset's runs, each after the last. (In an object store, where nothing can be appended, none.)"""
    if is_remote(dataset):
        yield RunLog(None)
        return
    path = dataset / LOGS_FOLDER / EVENTS_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        yield RunLog(file)
