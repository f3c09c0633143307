"""Helpers that several test files share."""

from whisper_gpt.jobs.common.event_log import LOGS_FOLDER
from whisper_gpt.manifests.location import Location, file_sha256, list_files


def hashes(dataset: Location) -> dict[str, str]:
    """Return the SHA-256 of every committed file of a dataset, that is, of all but the logs."""
    names = (name for name in list_files(dataset) if not name.startswith(f"{LOGS_FOLDER}/"))
    return {name: file_sha256(dataset / name) for name in names}
