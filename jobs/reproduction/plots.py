"""Two plots of a domain's rows: learning curves, and NLL by position in the window."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from whisper_gpt.jobs.reproduction.measures import NLL, Measure
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.manifests.figures import png_bytes

# Without grey, which is for the n-gram baselines.
_COLOURS = [colormaps["tab10"](i) for i in range(10) if i != 7]
_NGRAM_DASHES = ((6, 2), (2, 2), (6, 2, 2, 2), (1, 1))
_POSITION_BINS = 32


def learning_curves(domain: str, rows: Sequence[RowResult], measure: Measure = NLL) -> bytes:
    """Return a PNG of the validation measure against tokens trained: mean over seeds, band from minimum to maximum.

    N-gram baselines have no curve; they are scored on another split, which is not comparable.
    """
    figure, axes = _figure(domain, "tokens trained", f"{measure.axis}, first windows of the validation split")
    axes.xaxis.set_major_formatter(EngFormatter())
    tops, lows = [], []
    for row, style in zip(rows, _styles(rows), strict=True):
        tokens, nats_by_seed = common_points(row)
        by_seed = measure.per_nat * nats_by_seed
        if not len(tokens):
            continue
        axes.plot(tokens, by_seed.mean(axis=0), label=row.row, **style)
        axes.fill_between(tokens, by_seed.min(axis=0), by_seed.max(axis=0), color=style["color"], alpha=0.2, lw=0)
        # Exclude the first point, still near log(codebook size): it would squeeze the other points into one line.
        tops.append(by_seed[:, min(1, len(tokens) - 1) :].max())
        lows.append(by_seed.min())
    if tops and np.isfinite([*tops, *lows]).all():
        margin = 0.05 * (max(tops) - min(lows)) or 0.1
        axes.set_ylim(min(lows) - margin, max(tops) + margin)
    return _png(figure, axes)


def position_curves(domain: str, rows: Sequence[RowResult], measure: Measure = NLL) -> bytes:
    """Return a PNG of the test measure against the position in the window, in bins of equal width on a log scale."""
    figure, axes = _figure(domain, "frame in the window (75 per second)", measure.axis)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:.0f}")
    for row, style in zip(rows, _styles(rows), strict=True):
        positions, nats = by_position(row.position_nats, row.position_tokens)
        if len(positions):
            axes.plot(positions, measure.per_nat * nats, label=row.row, **style)
    return _png(figure, axes)


def common_points(row: RowResult) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted tokens trained `[P]` at which every seed was evaluated, and the NLL there `[S, P]`."""
    curves = [dict(curve) for curve in row.curves]
    tokens = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
    by_seed = [[curve[t] for t in tokens] for curve in curves]
    return np.array(tokens), np.array(by_seed).reshape(len(curves), len(tokens))


def by_position(nats: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin sums of nats and of tokens by position, both `[C]`; return the centres of log-spaced bins (from 1) and the
    nats per token in them.

    Bins without tokens are omitted.
    """
    if not len(tokens):
        return np.empty(0), np.empty(0)
    # Rounding merges the narrow bins at the start, so that each holds at least one position.
    edges = np.unique(np.geomspace(1, len(tokens) + 1, _POSITION_BINS + 1).round().astype(int))
    first, last = edges[:-1], edges[1:] - 1
    nats_in, tokens_in = np.add.reduceat(nats, first - 1), np.add.reduceat(tokens, first - 1)
    filled = tokens_in > 0
    return np.sqrt(first * last)[filled], nats_in[filled] / tokens_in[filled]


def _styles(rows: Sequence[RowResult]) -> list[dict]:
    """Return a line style for each row: models in colours, n-gram baselines grey and dashed."""
    models, ngrams, styles = 0, 0, []
    for row in rows:
        if row.is_ngram:
            styles.append({"color": "0.45", "lw": 1.2, "dashes": _NGRAM_DASHES[ngrams % len(_NGRAM_DASHES)]})
            ngrams += 1
        else:
            # When the colours repeat, dot the lines.
            dotted = ":" if models >= len(_COLOURS) else "-"
            styles.append({"color": _COLOURS[models % len(_COLOURS)], "lw": 1.5, "ls": dotted})
            models += 1
    return styles


def _figure(title: str, x: str, y: str):
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    return figure, axes


def _png(figure: Figure, axes) -> bytes:
    """Render the figure as PNG, with a legend at the right if it has lines."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return png_bytes(figure)
