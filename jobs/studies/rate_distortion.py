"""The codecs of a vocabulary study: how well each reconstructs the test recordings, beside what its codes cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from whisper_gpt.jobs.reproduction.measures import BITS_PER_S
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.statistics import nll
from whisper_gpt.jobs.reproduction.table import markdown_rows
from whisper_gpt.jobs.studies.design import Cell
from whisper_gpt.manifests.figures import png_bytes
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.manifests.location import Location
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.distances import SCALES
from whisper_gpt.pipeline.codec.quality import bitrate_kbps, distances, reconstructions
from whisper_gpt.pipeline.corpora.original import read_original

FRONTIER = "rate-distortion.png"
_MOST_SAMPLES = 40  # of the test split, evenly spaced


@dataclass(frozen=True)
class CodecPoint:
    """A codec on one dataset's test recordings: its raw rate, the distances of its reconstructions, and what its codes
    cost each row in bits per second."""

    dataset: str
    codebooks: int
    codebook_size: int
    raw_kbps: float
    log_mel: float
    si_sdr_db: float
    bits_per_s: dict[str, float]


def codec_point(dataset: Location, corpus: Location, codec: Codec, cells: Mapping[Cell, RowResult]) -> CodecPoint:
    """Measure a dataset's codec on recordings of its test split in `corpus`."""
    columns = ["source", "start_s", "duration_s", "extra"]
    rows = read_samples(dataset, "test", columns).to_pylist()
    chosen = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, _MOST_SAMPLES).astype(int))]
    read = (read_original(corpus, row, round(row["duration_s"] * codec.sample_rate)) for row in chosen)
    wavs = [wav for wav in read if len(wav) >= SCALES[-1]]
    measured = distances(wavs, reconstructions(codec, wavs, [codec.encode(wav) for wav in wavs]))
    costs = {cell.row: BITS_PER_S.per_nat * nll(result) for cell, result in cells.items() if cell.test == dataset.name}
    return CodecPoint(
        dataset=dataset.name,
        codebooks=codec.codebooks,
        codebook_size=codec.codebook_size,
        raw_kbps=bitrate_kbps(codec, codec.codebooks),
        log_mel=measured.log_mel,
        si_sdr_db=measured.si_sdr_db,
        bits_per_s=costs,
    )


def frontier_markdown(points: Sequence[CodecPoint]) -> str:
    """Return the codecs as a section of the report."""
    rows = list(points[0].bits_per_s)
    costs_of = [f"{row}, bits/s" for row in rows]
    header = ["dataset", "codebooks", "raw kbit/s", "log-mel distance", "SI-SDR, dB", *costs_of]
    lines = [header, ["---"] * len(header)]
    for point in points:
        costs = [f"{point.bits_per_s[row]:,.0f} ({point.bits_per_s[row] / point.raw_kbps / 10:.0f} %)" for row in rows]
        size = f"{point.codebooks} × {point.codebook_size}"
        quality = [f"{point.raw_kbps:g}", f"{point.log_mel:.3f}", f"{point.si_sdr_db:.1f}".replace("-", "−")]
        lines.append([point.dataset, size, *quality, *costs])
    text = "How far each codec's reconstructions are off, and what its codes cost, also as a share of the raw rate."
    picture = f"![Bits per second against distortion]({FRONTIER})"
    return "\n\n".join(("## Rate and distortion", text, markdown_rows(lines), picture))


def frontier_picture(points: Sequence[CodecPoint]) -> bytes:
    """Return a PNG: bits per second of each row, and the raw rate, against the log-mel distance."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    x = [point.log_mel for point in points]
    axes.plot(x, [1000 * point.raw_kbps for point in points], "o", color="0.5", label="raw codes")
    for row in points[0].bits_per_s:
        axes.plot(x, [point.bits_per_s[row] for point in points], "o", label=row)
    for point in points:
        axes.annotate(point.dataset, (point.log_mel, 1000 * point.raw_kbps), fontsize=7, rotation=20)
    axes.set(xlabel="multi-scale log-mel distance of the reconstructions", ylabel=BITS_PER_S.axis)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    return png_bytes(figure)
