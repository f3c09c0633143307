"""What is read of manifests, kept by Streamlit between runs of the page.

Nothing here imports torch, which takes seconds, so that the table is there before it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import streamlit as st
import yaml

from whisper_gpt.jobs.common.errors import USERS_ERRORS
from whisper_gpt.jobs.common.event_log import LOGS_FOLDER
from whisper_gpt.jobs.exploring.settings import dataset_at
from whisper_gpt.manifests.browse import Browser
from whisper_gpt.manifests.dataset_info import DatasetInfo, read_info
from whisper_gpt.manifests.location import Location, is_file, is_folder, location

_INFO_S = 10  # until it is read again


@contextmanager
def errors_shown() -> Iterator[None]:
    """Show an error that the user can mend in the page; others keep their traceback."""
    try:
        yield
    except USERS_ERRORS as error:
        st.error(as_text(" ".join(str(error).split())))


def browser(address: str) -> Browser:
    """Return the samples of a dataset, to filter and sort; they are read again when the dataset has grown."""
    return _browser(address, info(address).plans_sha256)


@st.cache_resource(max_entries=4, show_spinner="Reading the manifest")
def _browser(address: str, plans_sha256: list[str]) -> Browser:
    return Browser(dataset_at(address))


@st.cache_data(ttl=_INFO_S, show_spinner=False)
def info(address: str) -> DatasetInfo:
    """Return the content of `dataset.json`."""
    return read_info(dataset_at(address))


def as_text(words: str) -> str:
    """Return `words` for where Streamlit renders Markdown, so that they are shown as they are: a corpus may call its
    files whatever it likes."""
    return re.sub(r"([^\w\s])", r"\\\1", words)


def source(address: str) -> Location | None:
    """Return where the corpus was when the dataset was made, or None if that is not known."""
    noted, dataset = options(address).get("source"), dataset_at(address)
    if noted:
        return location(noted)
    made = dataset.with_name(f"{dataset.name}.source")  # where `preprocess synthetic` writes its corpus
    return made if is_folder(made) else None


def options(address: str) -> dict[str, Any]:
    """Return the options that `preprocess` was last run with; none for a dataset made by `merge`."""
    path = options_file(address)
    return yaml.safe_load(path.read_text(encoding="utf-8")) if is_file(path) else {}


def options_file(address: str) -> Location:
    """Return the path of those options."""
    return dataset_at(address) / LOGS_FOLDER / "preprocess.yaml"
