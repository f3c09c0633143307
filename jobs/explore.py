"""Explore datasets in a local web page: filter, sort, look, and listen to every sample; compare datasets and runs.

It needs the extra `explore` (pip install 'whisper-gpt[explore]'). It only reads, and sends nothing to other machines.
"""

import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.exploring.settings import Settings
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.location import location

_APP = Path(__file__).parent / "exploring" / "app.py"


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt explore`."""

    datasets: Positional[tuple[UPath, ...]]
    """Folders, or s3:// or gs:// prefixes, of datasets made by `preprocess` or `merge`."""
    runs: tuple[Path, ...] = ()
    """Folders of training runs: their curves, the NLL of each frame of a sample, and continuations of it."""
    codec_weights: Path | None = None
    """File with the weights of the datasets' codec, if it is not found without this option."""
    port: int = 8501
    """Port of the page."""
    address: str = "127.0.0.1"
    """Address to listen at. Whoever can reach it can see and hear the datasets; there is no password."""
    browser: bool = True
    """Open the page in a browser."""


def run(config: Config) -> int:
    """Serve the page until it is interrupted; return the exit code of the server."""
    require(bool(config.datasets), "name at least one dataset")
    if find_spec("streamlit") is None:
        raise JobError("explore needs Streamlit: pip install 'whisper-gpt[explore]'")
    addresses = [location(dataset) for dataset in config.datasets]
    for address in addresses:
        read_info(address)  # raises a clear error if this is not a dataset
    if config.runs:
        from whisper_gpt.jobs.inference.run_folder import newest_checkpoint  # imports torch, which takes seconds

        for folder in config.runs:
            newest_checkpoint(folder)  # raises a clear error if this is not a run
    weights = str(config.codec_weights.absolute()) if config.codec_weights else ""
    settings = Settings(tuple(map(str, addresses)), tuple(str(run.absolute()) for run in config.runs), weights)
    command = [sys.executable, "-m", "streamlit", "run", str(_APP), *_options(config), "--", settings.to_json()]
    try:
        return subprocess.run(command, check=False).returncode
    except KeyboardInterrupt:
        return 0


def _options(config: Config) -> list[str]:
    """Return Streamlit's options: it would otherwise ask for an e-mail address, send statistics, and ask a server on
    the internet for the machine's address."""
    return [
        f"--browser.serverAddress={'localhost' if config.address in ('0.0.0.0', '::') else config.address}",
        "--server.showEmailPrompt=false",
        f"--server.address={config.address}",
        f"--server.port={config.port}",
        f"--server.headless={'false' if config.browser else 'true'}",
        "--server.fileWatcherType=none",
        "--browser.gatherUsageStats=false",
        "--client.toolbarMode=minimal",
        "--client.showErrorDetails=type",
        "--global.developmentMode=false",
    ]
