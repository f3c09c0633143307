"""The plots are PNGs for any rows, and show the right numbers."""

import io
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.jobs.reproduction.plots import by_position, common_points, learning_curves, position_curves


def pixels(png: bytes) -> np.ndarray:
    """The image as an array `[height, width, 4]`."""
    return matplotlib.image.imread(io.BytesIO(png), format="png")


@pytest.mark.parametrize("draw", [learning_curves, position_curves])
def test_each_figure_is_a_png_that_shows_every_row(all_rows, draw) -> None:
    rows = all_rows if draw is position_curves else [row for row in all_rows if not row.is_ngram]
    images = [pixels(draw("speech", rows[:n])) for n in range(len(rows) + 1)]
    assert all(image.ndim == 3 and image.std() > 0 for image in images)
    for fewer, more in pairwise(images):
        assert fewer.shape != more.shape or (fewer != more).any()


def test_rows_without_curve_or_positions_are_not_drawn(result_row) -> None:
    bare = result_row(curves=((), ()), position_nats=np.empty(0), position_tokens=np.empty(0, np.int64))
    for row in (bare, result_row("unigram", learning_rate=None, curves=())):
        assert (pixels(learning_curves("x", [row])) == pixels(learning_curves("x", []))).all()
    assert (pixels(position_curves("x", [bare])) == pixels(position_curves("x", []))).all()


def test_diverged_curve_is_still_a_png(result_row) -> None:
    diverged = result_row(curves=(((10, 3.0), (20, float("nan"))),) * 2)
    assert pixels(learning_curves("x", [diverged, result_row("gpt-40m")])).std() > 0


def test_different_seeds_are_drawn_as_a_band(result_row) -> None:
    # A further row fixes the limits of the axes, and both rows have the same mean, so only the band can differ.
    limits_row = result_row("gpt-40m", curves=(((10, 9.0), (20, 9.0), (30, 0.1)),) * 2)
    same_seeds = result_row(curves=(((10, 3.0), (20, 2.0)),) * 2)
    different_seeds = result_row(curves=(((10, 4.0), (20, 3.0)), ((10, 2.0), (20, 1.0))))
    no_band, band = (pixels(learning_curves("x", [limits_row, row])) for row in (same_seeds, different_seeds))
    assert no_band.shape == band.shape and (no_band != band).any()


def test_curves_use_the_points_that_all_seeds_share(result_row) -> None:
    tokens, by_seed = common_points(result_row(curves=(((20, 2.0), (10, 3.0)), ((10, 4.0), (15, 9.0), (20, 2.5)))))
    assert tokens.tolist() == [10, 20]
    assert by_seed.tolist() == [[3.0, 2.0], [4.0, 2.5]]


@given(st.lists(st.integers(0, 50), max_size=600))
def test_position_bins_keep_every_token(counts) -> None:
    tokens = np.array(counts, np.int64)
    centres, nats = by_position(3.0 * tokens, tokens)
    assert nats == pytest.approx(np.full(len(nats), 3.0))
    assert (np.diff(centres) > 0).all() and ((centres >= 1) & (centres <= len(tokens))).all()
    assert bool(len(nats)) == bool(tokens.sum())


def test_position_bins_weight_by_tokens() -> None:
    nats, tokens = np.ones(512), np.ones(512, np.int64)
    nats[-1], tokens[-1] = 10_000, 9_000
    _, binned = by_position(nats, tokens)
    width = 512 - round(np.geomspace(1, 513, 33)[-2]) + 1
    assert binned[0] == 1 and binned[-1] == pytest.approx((width - 1 + 10_000) / (width - 1 + 9_000))
