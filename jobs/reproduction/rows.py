"""The rows of the table: which model reads what."""

from collections.abc import Sequence
from dataclasses import dataclass

from whisper_gpt.jobs.common.errors import UsageError
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.pipeline.features.mel_config import AUDIO, centred_window, decoded_codebooks


@dataclass(frozen=True)
class Row:
    """A trained row: the `model` preset, the `view` of the mel that it reads (None: no mel), how many codebooks."""

    name: str
    tag: str
    description: str
    model: str
    view: str | None
    input_codebooks: int


# The row that the differences are to.
BASELINE = "gpt-4m"


def rows_of(name: str, info: DatasetInfo, wanted: Sequence[str]) -> list[Row]:
    """The rows that the dataset `name` allows, those `wanted` or all. Raises `UsageError` for one that it does not."""
    views, books = info.mel["views"], info.codec["codebooks"]
    rows = [
        Row(BASELINE, "a", "token-only", "gpt-4m", None, 1),
        Row("gpt-40m", "a", "token-only", "gpt-40m", None, 1),
    ]
    if books > 1:
        rows.append(Row("gpt-4m-all-codes", "b", f"all {books} codebooks summed", "gpt-4m", None, books))
    if AUDIO in views:
        rows.append(Row("hybrid-4m", "c", "real causal mel", "hybrid-4m", AUDIO, 1))
    for view in views:
        if count := decoded_codebooks(view):
            what = f"mel of the decoded codes, K = {count}"
            rows.append(Row(f"hybrid-4m-{view}", "d", what, "hybrid-4m", view, 1))
    for view in views:
        if window := centred_window(view):
            what = f"control: centred mel, window {window}"
            rows.append(Row("hybrid-4m-centred", "e", what, "hybrid-4m", view, 1))
    if AUDIO in views:
        rows.append(Row("mel-alone", "f", "real causal mel, no tokens", "hybrid-4m", AUDIO, 0))
    names = [row.name for row in rows]
    if unknown := [name for name in wanted if name not in names]:
        there = ", ".join(names)
        raise UsageError(
            f"--rows {' '.join(unknown)}: {name} has mels of {', '.join(views)}, which allow {there}; "
            "preprocess --mel-of both --leaky-control makes the mels of all rows"
        )
    return [row for row in rows if not wanted or row.name in wanted]


def lacking(info: DatasetInfo) -> list[str]:
    """The mels that a dataset does not have, and with them the rows that read them."""
    views = info.mel["views"]
    kinds = {
        "real mel": AUDIO in views,
        "decoded mel": any(map(decoded_codebooks, views)),
        "centred mel": any(map(centred_window, views)),
    }
    return [kind for kind, there in kinds.items() if not there]
