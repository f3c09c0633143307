"""Summarise a dataset: totals, levels, code usage and entropy, failures by reason, and its codec and mel."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import USERS_ERRORS
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.manifests.dataset_info import read_info
from whisper_gpt.manifests.figures import Example
from whisper_gpt.manifests.fragments import take_samples
from whisper_gpt.manifests.location import Location, location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.manifests.report import Shown, page
from whisper_gpt.manifests.statistics import Group, Histogram
from whisper_gpt.manifests.summary import Summary, summarise, treatments_text
from whisper_gpt.pipeline.frames import SAMPLE_RATE
from whisper_gpt.pipeline.loading.shard_reader import ShardReader

if TYPE_CHECKING:
    from whisper_gpt.pipeline.codec.causal import Codec

_LISTED = 10
_EXAMPLES = 4
_EXAMPLE_S = 10


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt inspect`."""

    dataset: Positional[UPath]
    """Folder, or s3:// or gs:// prefix, of a dataset made by `preprocess`."""
    json: bool = False
    """Print JSON instead of text."""
    html: Path | None = None
    """HTML file to write as well: one self-contained page with plots, and a few samples decoded to sound."""
    codec_weights: Path | None = None
    """File with the weights of the dataset's codec, for the sound in the page, if it is not found without."""


def run(config: Config) -> int:
    """Print the summary, and write the HTML page if asked for; return exit code 0."""
    dataset = location(config.dataset)
    summary = summarise(dataset)
    if config.html:
        content = page(dataset.name, summary, _examples(config, dataset, summary))
        publish_bytes(config.html, content.encode())
    if config.json:
        print(json.dumps(summary.as_dict(), indent=1, ensure_ascii=False))
    else:
        _print_text(summary, Console())
    return 0


def _codec(config: Config, dataset: Location) -> "Codec | None":
    """Load the dataset's codec; print why the page has no sound if it is not found."""
    # These import torch, which takes seconds, and only the page needs it.
    from whisper_gpt.jobs.inference.run_codec import codec_of
    from whisper_gpt.jobs.inference.run_folder import trained_on

    try:
        return codec_of(dataset, trained_on(read_info(dataset)), config.codec_weights, download=False)
    except USERS_ERRORS as error:
        status_console().print(f"{config.html} has no sound: {error}")
        return None


def _examples(config: Config, dataset: Location, summary: Summary) -> list[Shown]:
    """Return the first seconds of a few samples spread over the manifest."""
    total = sum(totals.samples for totals in summary.splits.values())
    if not total:
        return []
    frames_per_s = summary.codec["sample_rate"] / summary.codec["hop_samples"]
    rows = [i * total // _EXAMPLES for i in range(min(_EXAMPLES, total))]
    chosen = take_samples(dataset, rows)
    reader, codec = ShardReader(dataset, chosen), _codec(config, dataset)
    examples = []
    for row, values in enumerate(chosen.to_pylist()):
        codes, mel = reader.read(row, 0, min(values["frames"], round(_EXAMPLE_S * frames_per_s)))
        text = values["text"] or " – ".join(part for part in (values["composer"], values["title"]) if part)
        depths = sorted({1, len(codes)})
        sounds = [(f"{d} codebook{'s' * (d > 1)}", _ogg(codec, codes[:d])) for d in depths] if codec else []
        examples.append(Shown(values["key"], text, Example(codes, mel, frames_per_s), sounds))
    return examples


def _ogg(codec: "Codec", codes: np.ndarray) -> bytes:
    """Decode `codes` `[K, T]` to an Ogg file with Opus, which browsers play; a tenth of its size as a WAV file."""
    buffer = io.BytesIO()
    wav = codec.decode(codes.astype(np.int64)).clip(-1, 1)
    soundfile.write(buffer, wav, SAMPLE_RATE, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def _print_text(summary: Summary, console: Console) -> None:
    codec, mel, treated = summary.codec, summary.mel, treatments_text(summary.treatments)
    console.print(
        f"corpus {summary.corpus} · codec {codec['name']} {codec['weights_sha256'][:12]}, {codec['codebooks']} × "
        f"{codec['codebook_size']} · mel {mel['bands']} bands, window {mel['window_samples']} · samples ≤ "
        f"{summary.segment_s:g} s · fingerprint {summary.fingerprint[:12]}"
        f"{' · treated: ' if treated else ''}{treated}",
        highlight=False,
    )
    splits = Table("split", *(_right(h) for h in ("samples", "hours", "frames", "shards")))
    for name, totals in summary.splits.items():
        hours = f"{totals.seconds / 3600:.3f}"
        splits.add_row(name, f"{totals.samples:,}", hours, f"{totals.frames:,}", str(totals.shards))
    console.print(splits)
    for title, groups in (("speaker", summary.speakers), ("composer", summary.composers)):
        if groups:
            console.print(_group_table(title, groups))
    for label, bins in (
        ("duration, s", summary.durations_s),
        ("peak, dBFS", summary.peak_dbfs),
        ("RMS, dBFS", summary.rms_dbfs),
    ):
        console.print(_histogram_table(label, bins))
    console.print(f"{summary.samples_clipped} samples have clipped values", highlight=False)
    codes = Table(*(_right(h) for h in ("codebook", "codes in use", "entropy, bits")))
    for usage in summary.codes:
        codes.add_row(str(usage.codebook), f"{usage.used} of {usage.size}", f"{usage.entropy_bits:.2f}")
    console.print(codes)
    if summary.absent_sources:
        console.print(
            f"{summary.absent_sources} sources that the corpus lists are missing (absent.txt)", highlight=False
        )
    if not summary.failures:
        console.print("no failures")
        return
    failures = Table("stage", "reason", _right("sources"), _right("seconds"), Column("for example", overflow="fold"))
    for group in summary.failures[:_LISTED]:
        failures.add_row(
            group.stage, escape(group.reason), str(group.sources), f"{group.seconds:.1f}", escape(group.example)
        )
    console.print(failures)
    if len(summary.failures) > _LISTED:
        console.print(f"and {len(summary.failures) - _LISTED} other reasons (--json lists all)")


def _group_table(title: str, groups: list[Group]) -> Table:
    table = Table(f"{title} ({len(groups)})", _right("samples"), _right("minutes"))
    for group in groups[:_LISTED]:
        table.add_row(escape(group.name), f"{group.samples:,}", f"{group.seconds / 60:.1f}")
    rest = groups[_LISTED:]
    if rest:
        samples, seconds = sum(g.samples for g in rest), sum(g.seconds for g in rest)
        table.add_row(f"{len(rest)} others", f"{samples:,}", f"{seconds / 60:.1f}")
    return table


def _histogram_table(label: str, bins: Histogram) -> Table:
    table = Table(_right(label), _right("samples"), "")
    largest = max([1, *bins.counts])
    for low, high, count in zip(bins.edges[:-1], bins.edges[1:], bins.counts, strict=True):
        if count:
            span = f"at least {round(low, 1):g}" if high == float("inf") else f"{low:g} to {round(high, 1):g}"
            table.add_row(span, f"{count:,}", "█" * round(30 * count / largest))
    return table


def _right(heading: str) -> Column:
    return Column(heading, justify="right")
