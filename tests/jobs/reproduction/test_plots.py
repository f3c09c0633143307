"""The pictures: PNG whatever the rows are, and the numbers that are drawn."""

import io
from itertools import pairwise

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.jobs.reproduction.plots import by_position, common_points, learning_curves, position_curves


def pixels(png: bytes) -> np.ndarray:
    """The picture as `[height, width, 4]`."""
    return matplotlib.image.imread(io.BytesIO(png), format="png")


@pytest.mark.parametrize("draw", [learning_curves, position_curves])
def test_each_figure_is_a_png_that_shows_every_row(all_rows, draw) -> None:
    shown = all_rows if draw is position_curves else [row for row in all_rows if not row.is_ngram]
    drawn = [pixels(draw("speech", shown[:n])) for n in range(len(shown) + 1)]
    assert all(picture.ndim == 3 and picture.std() > 0 for picture in drawn)
    for fewer, more in pairwise(drawn):
        assert fewer.shape != more.shape or (fewer != more).any()


def test_a_row_without_curve_or_positions_is_left_out(made_row) -> None:
    bare = made_row(curves=((), ()), position_nats=np.empty(0), position_tokens=np.empty(0, np.int64))
    for row in (bare, made_row("unigram", learning_rate=None, curves=())):
        assert (pixels(learning_curves("x", [row])) == pixels(learning_curves("x", []))).all()
    assert (pixels(position_curves("x", [bare])) == pixels(position_curves("x", []))).all()


def test_a_diverged_curve_is_still_a_png(made_row) -> None:
    diverged = made_row(curves=(((10, 3.0), (20, float("nan"))),) * 2)
    assert pixels(learning_curves("x", [diverged, made_row("gpt-40m")])).std() > 0


def test_seeds_that_differ_are_drawn_as_a_band(made_row) -> None:
    # Another row holds the axes' limits, and both rows have one mean: only the band is left to differ.
    wide = made_row("gpt-40m", curves=(((10, 9.0), (20, 9.0), (30, 0.1)),) * 2)
    alike = made_row(curves=(((10, 3.0), (20, 2.0)),) * 2)
    apart = made_row(curves=(((10, 4.0), (20, 3.0)), ((10, 2.0), (20, 1.0))))
    without, band = (pixels(learning_curves("x", [wide, row])) for row in (alike, apart))
    assert without.shape == band.shape and (without != band).any()


def test_curves_meet_at_the_points_that_every_seed_has(made_row) -> None:
    tokens, by_seed = common_points(made_row(curves=(((20, 2.0), (10, 3.0)), ((10, 4.0), (15, 9.0), (20, 2.5)))))
    assert tokens.tolist() == [10, 20]
    assert by_seed.tolist() == [[3.0, 2.0], [4.0, 2.5]]


@given(st.lists(st.integers(0, 50), max_size=600))
def test_bins_of_positions_lose_no_token(counts) -> None:
    tokens = np.array(counts, np.int64)
    centres, nats = by_position(3.0 * tokens, tokens)
    assert nats == pytest.approx(np.full(len(nats), 3.0))
    assert (np.diff(centres) > 0).all() and ((centres >= 1) & (centres <= len(tokens))).all()
    assert bool(len(nats)) == bool(tokens.sum())


def test_bins_weigh_positions_by_their_tokens() -> None:
    nats, tokens = np.ones(512), np.ones(512, np.int64)
    nats[-1], tokens[-1] = 10_000, 9_000
    _, binned = by_position(nats, tokens)
    width = 512 - round(np.geomspace(1, 513, 33)[-2]) + 1
    assert binned[0] == 1 and binned[-1] == pytest.approx((width - 1 + 10_000) / (width - 1 + 9_000))
