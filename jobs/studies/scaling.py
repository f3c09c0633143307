"""What a scale study says about the gain of mel beyond its own trials: a fit over sizes and training lengths."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import log10
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from scipy import stats

from whisper_gpt.jobs.common.bootstrap import Interval
from whisper_gpt.jobs.reproduction.measures import NLL
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.statistics import difference
from whisper_gpt.jobs.reproduction.table import finite, finite_ends, markdown_rows
from whisper_gpt.jobs.reproduction.trials import Budget
from whisper_gpt.jobs.studies.design import Cell, Study
from whisper_gpt.manifests.figures import png_bytes

SCALING = "scaling.png"
_FULL_TOKENS = 960 * 3600 * 75  # of the training subsets of LibriSpeech
_PREDICTED_SIZES = (4_000_000, 40_000_000)


@dataclass(frozen=True)
class Gain:
    """The hybrid minus the token-only model of one size and training length, in nats per token, mean over seeds."""

    test: str
    parameters: int  # of the token-only model
    tokens: int
    delta: float


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval."""

    value: float
    interval: Interval


@dataclass(frozen=True)
class Fit:
    """Δ = a + b · log10(parameters) + c · log10(tokens) by least squares over a test set's gains.

    The intervals are Student's: of b and c, and for `predictions` those of a new gain. They know how the gains scatter
    around the fit, on one test set; not whether the fit holds beyond them.
    """

    test: str
    per_tenfold_parameters: Estimate
    per_tenfold_tokens: Estimate
    predictions: Mapping[int, Estimate]  # by parameters, after `_FULL_TOKENS` tokens


def gains(study: Study, cells: Mapping[Cell, RowResult], budget: Budget) -> list[Gain]:
    """Return the gain of mel of every pair of a `gpt-SIZE` and a `hybrid-SIZE` trained alike."""
    tokens_of = {training.name: budget.tokens_of(training.divisor) for training in study.trainings}
    found = []
    for cell, base in cells.items():
        kind, _, size = cell.row.partition("-")
        if kind == "gpt":
            hybrid = cells[Cell(cell.training, f"hybrid-{size}", cell.test)]
            tokens = tokens_of[cell.training]
            found.append(Gain(cell.test, base.parameters, tokens, difference(hybrid, base).delta))
    return found


def fits(points: Sequence[Gain]) -> list[Fit]:
    """Return the fit of each test set."""
    tests = dict.fromkeys(point.test for point in points)
    return [_fit(test, [point for point in points if point.test == test]) for test in tests]


def _fit(test: str, points: Sequence[Gain]) -> Fit:
    x = np.array([(1.0, log10(point.parameters), log10(point.tokens)) for point in points])
    y = np.array([point.delta for point in points])
    inverse = np.linalg.inv(x.T @ x)
    weights = inverse @ x.T @ y
    free = len(y) - 3
    variance = ((y - x @ weights) ** 2).sum() / free
    quantile = float(stats.t.ppf(0.975, free))

    def estimate(at: np.ndarray, scatter: float) -> Estimate:
        value = float(at @ weights)
        margin = quantile * float(np.sqrt(variance * (at @ inverse @ at + scatter)))
        return Estimate(value, Interval(value - margin, value + margin))

    predictions = {
        size: estimate(np.array([1.0, log10(size), log10(_FULL_TOKENS)]), scatter=1.0) for size in _PREDICTED_SIZES
    }
    slopes = np.eye(3)[1:]
    return Fit(test, estimate(slopes[0], 0.0), estimate(slopes[1], 0.0), predictions)


def scaling_json(points: Sequence[Gain], fitted: Sequence[Fit]) -> dict[str, Any]:
    """Return gains and fits as content of the report."""

    def content(estimate: Estimate) -> dict[str, Any]:
        return {"value": finite(estimate.value), "interval": finite_ends(estimate.interval)}

    return {
        "gains": [{**asdict(point), "delta": finite(point.delta)} for point in points],
        "fits": [
            {
                "test": fit.test,
                "per_tenfold_parameters": content(fit.per_tenfold_parameters),
                "per_tenfold_tokens": content(fit.per_tenfold_tokens),
                "predictions": {size: content(estimate) for size, estimate in fit.predictions.items()},
            }
            for fit in fitted
        ],
    }


def scaling_markdown(fitted: Sequence[Fit]) -> str:
    """Return the fits as a section of the report."""
    predicted = [f"{size / 1e6:g} M after {_FULL_TOKENS / 1e6:.0f} M tokens" for size in _PREDICTED_SIZES]
    header = ["tested on", "Δ per tenfold parameters", "Δ per tenfold tokens", *predicted]
    lines = [header, ["---"] * len(header)]
    for fit in fitted:
        estimates = [fit.per_tenfold_parameters, fit.per_tenfold_tokens, *fit.predictions.values()]
        lines.append([fit.test, *map(_estimate, estimates)])
    text = (
        "The gain of mel, Δ (hybrid minus token-only, in nats per token; below 0 the mel helps), by least squares as "
        "linear in the logarithms of the parameters of the token-only model and of the training tokens. The last two "
        "columns are what the fit says about as many tokens as 960 hours of audio have, none of them twice. The "
        "intervals are Student's, from the scatter of the gains around the fit; they assume that it stays linear that "
        "far, and know nothing of other test recordings."
    )
    picture = f"![The gain of mel against the size of the models]({SCALING})"
    return "\n\n".join(("## Scaling", text, markdown_rows(lines), picture))


def scaling_picture(points: Sequence[Gain]) -> bytes:
    """Return a PNG: the gain against the parameters, one panel per test set and one line per training length."""
    tests = list(dict.fromkeys(point.test for point in points))
    figure = Figure(figsize=(4.5 * len(tests), 4), layout="constrained")
    for axes, test in zip(figure.subplots(1, len(tests), squeeze=False)[0], tests, strict=True):
        for tokens in sorted({point.tokens for point in points if point.test == test}):
            line = sorted((p for p in points if (p.test, p.tokens) == (test, tokens)), key=lambda p: p.parameters)
            x = [point.parameters for point in line]
            axes.plot(x, [point.delta for point in line], "o-", label=f"{tokens:,} tokens")
        axes.axhline(0, color="0.6", lw=0.8)
        axes.set(xscale="log", xlabel="parameters", ylabel="Δ of the hybrid, nats per token", title=test)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=9)
    return png_bytes(figure)


def _estimate(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{NLL.signed(estimate.value)} [{NLL.signed(low)}, {NLL.signed(high)}]"
