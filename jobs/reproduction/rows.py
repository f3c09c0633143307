"""The rows of the table: model and inputs."""

from collections.abc import Sequence
from dataclasses import dataclass

from whisper_gpt.jobs.common.errors import UsageError
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.pipeline.features.mel_config import AUDIO, centred_window, decoded_codebooks


@dataclass(frozen=True)
class Row:
    """A trained row: its `model` preset, and its inputs: `mel_variant` (None: no mel) and the codebooks."""

    name: str
    tag: str
    description: str
    model: str
    mel_variant: str | None
    input_codebooks: int


# The row that differences are relative to.
BASELINE = "gpt-4m"


def rows_of(name: str, info: DatasetInfo, wanted: Sequence[str]) -> list[Row]:
    """Return the rows of `wanted`, by default all that the dataset `name` allows. Raises `UsageError` for others."""
    variants, n_codebooks = info.mel["variants"], info.codec["codebooks"]
    rows = [
        Row(BASELINE, "a", "token-only", "gpt-4m", None, 1),
        Row("gpt-40m", "a", "token-only", "gpt-40m", None, 1),
    ]
    if n_codebooks > 1:
        description = f"all {n_codebooks} codebooks summed"
        rows.append(Row("gpt-4m-all-codes", "b", description, "gpt-4m", None, n_codebooks))
    if AUDIO in variants:
        rows.append(Row("hybrid-4m", "c", "real causal mel", "hybrid-4m", AUDIO, 1))
    for variant in variants:
        if count := decoded_codebooks(variant):
            description = f"mel of the decoded codes, K = {count}"
            rows.append(Row(f"hybrid-4m-{variant}", "d", description, "hybrid-4m", variant, 1))
    for variant in variants:
        if window := centred_window(variant):
            description = f"control: centred mel, window {window}"
            rows.append(Row("hybrid-4m-centred", "e", description, "hybrid-4m", variant, 1))
    if AUDIO in variants:
        rows.append(Row("mel-alone", "f", "real causal mel, no tokens", "hybrid-4m", AUDIO, 0))
    names = [row.name for row in rows]
    if unknown := [name for name in wanted if name not in names]:
        raise UsageError(
            f"--rows {' '.join(unknown)}: {name} has the mel variants {', '.join(variants)}, which allow the rows "
            f"{', '.join(names)}; preprocess --mel-of both --leaky-control makes the variants of all rows"
        )
    return [row for row in rows if not wanted or row.name in wanted]


def lacking(info: DatasetInfo) -> list[str]:
    """Return the kinds of mel that a dataset lacks, and so the rows that read them."""
    variants = info.mel["variants"]
    kinds = {
        "real mel": AUDIO in variants,
        "decoded mel": any(map(decoded_codebooks, variants)),
        "centred mel": any(map(centred_window, variants)),
    }
    return [kind for kind, present in kinds.items() if not present]
