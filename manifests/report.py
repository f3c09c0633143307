"""A report on a dataset as one HTML page with embedded figures and sound: nothing is loaded from elsewhere."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from whisper_gpt.manifests.figures import Example, png_bytes, sample_figure
from whisper_gpt.manifests.statistics import Histogram
from whisper_gpt.manifests.summary import Summary, treatments_text

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top }
td.n, th.n { text-align: right } tr + tr { border-top: 1px solid #ddd } img { max-width: 100% }
th { cursor: pointer } figure { display: inline-block; margin: 0 1rem .5rem 0 } audio { height: 2.2rem }
.key { font-family: ui-monospace, monospace; font-size: .85em; overflow-wrap: anywhere } p { max-width: 48rem }
"""
# A click on a heading sorts the rows below it, by number if all are numbers, and a second click reverses them.
_SORT = """
document.querySelectorAll("th").forEach(th => th.onclick = () => {
  const rows = [...th.closest("table").rows].slice(1), i = th.cellIndex;
  const text = row => row.cells[i].textContent, number = row => Number(text(row).replaceAll(",", ""));
  const numeric = rows.every(row => !isNaN(number(row))), sign = th.dataset.sign = -(th.dataset.sign || -1);
  rows.sort((a, b) => sign * (numeric ? number(a) - number(b) : text(a).localeCompare(text(b))));
  th.closest("table").tBodies[0].append(...rows);
})
"""
_LISTED = 20


@dataclass(frozen=True)
class Shown:
    """A sample to display under its key and its text; `sounds` are pairs of a caption and an Ogg file."""

    key: str
    text: str
    example: Example
    sounds: Sequence[tuple[str, bytes]] = ()


def page(name: str, summary: Summary, samples: Sequence[Shown]) -> str:
    """Return the page as HTML."""
    body = [
        f"<h1>{html.escape(name)}</h1>",
        f"<p>{html.escape(_introduction(summary))}</p>",
        _table(
            ("split", "samples", "hours", "frames", "shards"),
            [(s, t.samples, f"{t.seconds / 3600:.3f}", t.frames, t.shards) for s, t in summary.splits.items()],
        ),
        "<h2>Durations and levels</h2>",
        _picture(_histograms(summary)),
        f"<p>{summary.samples_clipped} samples contain clipped values.</p>",
        "<h2>Codes</h2>",
        _picture(_codes(summary)),
        _table(
            ("codebook", "codes in use", "of", "entropy, bits"),
            [(u.codebook, u.used, u.size, f"{u.entropy_bits:.2f}") for u in summary.codes],
        ),
    ]
    for title, groups in (("Speakers", summary.speakers), ("Composers", summary.composers)):
        if groups:
            rows = [(g.name, g.samples, f"{g.seconds / 60:.1f}") for g in groups[:_LISTED]]
            body += [f"<h2>{title} ({_listed(len(groups))})</h2>"]
            body.append(_table((title[:-1].lower(), "samples", "minutes"), rows))
    body.append(f"<h2>Failures ({_listed(len(summary.failures))})</h2>")
    if summary.failures:
        failed = [(f.stage, f.reason, f.sources, f"{f.seconds:.1f}", f.example) for f in summary.failures[:_LISTED]]
        body.append(_table(("stage", "reason", "sources", "seconds", "for example"), failed))
    else:
        body.append("<p>None.</p>")
    for sample in samples:
        caption = f"<p>{html.escape(sample.text)}</p>" if sample.text else ""
        picture = _picture(sample_figure(sample.example))
        players = "".join(_player(*sound) for sound in sample.sounds)
        body += [f'<h2 class="key">{html.escape(sample.key)}</h2>', caption, players, picture]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(name)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(body)}<script>{_SORT}</script></body></html>\n"
    )


def _listed(count: int) -> str:
    return str(count) if count <= _LISTED else f"the {_LISTED} with most of {count}"


def _introduction(summary: Summary) -> str:
    codec, mel, treated = summary.codec, summary.mel, treatments_text(summary.treatments)
    absent = (
        f" {summary.absent_sources} sources listed in the corpus metadata are missing."
        if summary.absent_sources
        else ""
    )
    return (
        f"Corpus {summary.corpus}. Codec {codec['name']} (weights {codec['weights_sha256'][:12]}…), "
        f"{codec['codebooks']} codebooks of {codec['codebook_size']}. Causal log-mel, {mel['bands']} bands, window "
        f"{mel['window_samples']} samples, one frame every {mel['hop_samples']} samples at {mel['sample_rate']} Hz. "
        f"Samples of at most {summary.segment_s:g} s. Fingerprint {summary.fingerprint[:12]}…{absent}"
        f"{f' Treated: {treated}.' if treated else ''}"
    )


def _histograms(summary: Summary) -> Figure:
    figure = Figure(figsize=(10, 2.6), layout="constrained")
    panels = figure.subplots(1, 3)
    _bars(panels[0], summary.durations_s, "duration, s")
    _bars(panels[1], summary.peak_dbfs, "peak, dBFS")
    _bars(panels[2], summary.rms_dbfs, "RMS, dBFS")
    return figure


def _bars(axes, bins: Histogram, label: str) -> None:
    names = [f"{round(edge, 1):g}" for edge in bins.edges[:-1]]
    if bins.edges[-1] == float("inf"):
        names[-1] = f"≥ {names[-1]}"
    axes.bar(range(len(bins.counts)), bins.counts, color="#4878a8", align="edge", width=0.92)
    axes.set_xticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel(label)
    axes.set_ylabel("samples")


def _codes(summary: Summary) -> Figure:
    figure = Figure(figsize=(10, 2.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    codebooks = [u.codebook for u in summary.codes]
    left.bar(codebooks, [100 * u.used / u.size for u in summary.codes], color="#4878a8")
    left.set(xlabel="codebook", ylabel="codes in use, %", ylim=(0, 105))
    right.bar(codebooks, [u.entropy_bits for u in summary.codes], color="#a86848")
    right.set(xlabel="codebook", ylabel="entropy, bits")
    return figure


def _player(caption: str, ogg: bytes) -> str:
    source = f"data:audio/ogg;base64,{base64.b64encode(ogg).decode()}"
    return f'<figure><figcaption>{html.escape(caption)}</figcaption><audio controls src="{source}"></audio></figure>'


def _picture(figure: Figure) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(png_bytes(figure)).decode()}">'


def _table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def cell(tag: str, value: object, numeric: bool) -> str:
        return f"<{tag}{' class=n' if numeric else ''}>{html.escape(str(value))}</{tag}>"

    numeric = [bool(rows) and str(rows[0][i]).replace(".", "", 1).isdigit() for i in range(len(headings))]
    lines = ["".join(cell("th", heading, n) for heading, n in zip(headings, numeric, strict=True))]
    lines += ["".join(cell("td", value, n) for value, n in zip(row, numeric, strict=True)) for row in rows]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
