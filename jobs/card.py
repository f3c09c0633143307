"""Write the dataset card (README.md) that Hugging Face's hub and `datasets` read: splits, codec, mel, totals.

Then `hf upload NAME OUT --repo-type dataset --exclude 'logs/*'` publishes the folder (logs/ holds paths and hosts), and
`load_dataset` opens it there as it does here.
"""

from dataclasses import dataclass

from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.manifests.card import card
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import is_file, is_remote, location
from whisper_gpt.manifests.publish import publish_bytes


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt card`."""

    dataset: Positional[UPath]
    """Folder, or s3:// or gs:// prefix, of a dataset made by `preprocess` or `merge`."""
    name: str | None = None
    """Title of the card; by default the name of the folder."""
    license: str = ""
    """Licence of the corpus, by the hub's short names: cc-by-4.0 for LibriSpeech, cc-by-nc-sa-4.0 for MAESTRO."""
    replace: bool = False
    """Replace a README.md that is there."""


def run(config: Config) -> int:
    """Write the card; return exit code 0."""
    dataset = location(config.dataset)
    path = dataset / "README.md"
    text = card(config.name or dataset.name, read_info(dataset), config.license)
    if is_file(path) and not config.replace:
        raise JobError(f"{path}: exists; --replace replaces it")
    publish_bytes(path, text.encode())
    upload = f"hf upload NAME {dataset} --repo-type dataset --exclude 'logs/*'"
    status_console().print(str(path) if is_remote(dataset) else f"{path}; to publish: {upload}")
    return 0
