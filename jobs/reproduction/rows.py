"""The rows of the tables: model, inputs and outputs."""

from collections.abc import Sequence
from dataclasses import dataclass

from whisper_gpt.jobs.common.errors import UsageError
from whisper_gpt.jobs.reproduction.measures import NLL, Measure
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.pipeline.features.mel_config import AUDIO, centred_window, decoded_codebooks


@dataclass(frozen=True)
class Row:
    """A trained row: its `model` preset, its inputs: `mel_variant` (None: no mel) and the codebooks, and the codebooks
    that it predicts, in `positions_per_frame` positions of the decoder."""

    name: str
    tag: str
    description: str
    model: str
    mel_variant: str | None
    input_codebooks: int
    output_codebooks: int = 1
    positions_per_frame: int = 1


def rows_of(name: str, info: DatasetInfo, wanted: Sequence[str], measure: Measure = NLL) -> list[Row]:
    """Return the rows of `wanted`, by default all of the measure's table that the dataset `name` allows.

    Raises `UsageError` for others.
    """
    rows = _rows_of_codebook_0(info) if measure is NLL else _rows_of_all_codebooks(info)
    names = [row.name for row in rows]
    if unknown := [name for name in wanted if name not in names]:
        raise UsageError(
            f"--rows {' '.join(unknown)}: {name} has the mel variants {', '.join(info.mel['variants'])}, which allow "
            f"the rows {', '.join(names)}; {measure.remedy}"
        )
    return [row for row in rows if not wanted or row.name in wanted]


def _rows_of_codebook_0(info: DatasetInfo) -> list[Row]:
    variants, n_codebooks = info.mel["variants"], info.codec["codebooks"]
    rows = [
        Row("gpt-4m", "a", "token-only", "gpt-4m", None, 1),
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
    return rows


def _rows_of_all_codebooks(info: DatasetInfo) -> list[Row]:
    count = info.codec["codebooks"]
    if count == 1:
        raise UsageError("--all-codebooks: the dataset has one codebook; preprocess it with more --codebooks")
    rows = [
        Row("gpt-8m", "a", "token-only, depth decoder", "gpt-8m", None, count, count),
        Row("delay-8m", "b", "token-only, delay pattern", "delay-8m", None, count, count),
        Row("flat-8m", "c", "token-only, flat pattern", "flat-8m", None, count, count, positions_per_frame=count),
    ]
    if (variant := f"codes-{count}") in info.mel["variants"]:
        mel = "mel of the decoded codes"
        rows += [
            Row("hybrid-8m", "d", f"{mel}, all codes, depth decoder", "hybrid-8m", variant, count, count),
            Row("hybrid-8m-one-code", "e", f"{mel}, codebook 0 alone, depth decoder", "hybrid-8m", variant, 1, count),
        ]
    return rows


def lacking(info: DatasetInfo, measure: Measure = NLL) -> list[str]:
    """Return the kinds of mel that a dataset lacks, and so the measure's rows that read them."""
    variants = info.mel["variants"]
    if measure is not NLL:
        return [] if f"codes-{info.codec['codebooks']}" in variants else ["decoded mel"]
    kinds = {
        "real mel": AUDIO in variants,
        "decoded mel": any(map(decoded_codebooks, variants)),
        "centred mel": any(map(centred_window, variants)),
    }
    return [kind for kind, present in kinds.items() if not present]
