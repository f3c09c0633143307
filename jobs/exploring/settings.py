"""What the page shows: passed from the verb to Streamlit's script as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from upath import UPath

from whisper_gpt.manifests.location import Location, location


@dataclass(frozen=True)
class Settings:
    """Addresses of datasets, folders of runs, and the file of a codec's weights ("" to look for them by name)."""

    datasets: tuple[str, ...]
    runs: tuple[str, ...] = ()
    codec_weights: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        content = json.loads(text)
        return cls(tuple(content["datasets"]), tuple(content["runs"]), content["codec_weights"])


def dataset_at(address: str) -> Location:
    """Return the location of one of the datasets."""
    return location(UPath(address) if "://" in address else Path(address))
