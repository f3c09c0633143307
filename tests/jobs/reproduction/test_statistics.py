"""Laws of NLL, intervals and differences, and how often the intervals hold what they estimate."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_gpt.jobs.reproduction import statistics
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.statistics import (
    accuracy,
    difference,
    interval,
    nll,
    nll_by_seed,
    perplexity,
    seed_sd,
)


@st.composite
def pairs(draw, fewest: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens `[N]` and the nats `[S, N]` of two rows on them."""
    count, seeds = draw(st.integers(fewest, 12)), draw(st.integers(1, 3))
    tokens = np.array(draw(st.lists(st.integers(1, 5000), min_size=count, max_size=count)))
    rate = st.floats(0.01, 8)
    rates = [draw(st.lists(rate, min_size=seeds * count, max_size=seeds * count)) for _ in range(2)]
    first, second = (np.array(r).reshape(seeds, count) * tokens for r in rates)
    return tokens, first, second


def row_of(made_row, tokens: np.ndarray, nats: np.ndarray, name: str = "gpt-4m") -> RowResult:
    correct = np.zeros(nats.shape, np.int64)
    return made_row(name, recordings=len(tokens), seeds=len(nats), tokens=tokens, nats=nats, correct=correct)


def test_nll_is_a_ratio_of_sums_and_not_a_mean_of_ratios(made_row) -> None:
    row = row_of(made_row, np.array([1, 3]), np.array([[4.0, 2.0], [6.0, 4.0]]))
    assert nll_by_seed(row) == [1.5, 2.5]
    assert nll(row) == 2.0
    assert perplexity(row) == pytest.approx(math.e**2)
    assert seed_sd(row) == pytest.approx(math.sqrt(0.5))


def test_accuracy_is_the_share_of_correct_tokens(made_row) -> None:
    row = made_row(recordings=2, tokens=np.array([10, 30]), correct=np.array([[5, 5], [10, 20]]))
    assert accuracy(row) == 0.5


def test_one_seed_has_no_spread(made_row) -> None:
    assert seed_sd(made_row(seeds=1)) is None


def test_one_recording_has_no_interval_and_no_p(made_row) -> None:
    row, base = made_row(nll=2.0, recordings=1), made_row("gpt-40m", 3.0, recordings=1)
    found = difference(row, base)
    assert interval(row) is None and found.interval is None and found.p is None
    assert found.delta == pytest.approx(-1, abs=0.1)


@settings(max_examples=25)
@given(pairs())
def test_an_interval_holds_the_estimate(made_row, pair) -> None:
    tokens, nats, other = pair
    row, base = row_of(made_row, tokens, nats), row_of(made_row, tokens, other, "gpt-40m")
    found = difference(row, base)
    for estimate, (low, high) in ((nll(row), interval(row)), (found.delta, found.interval)):
        assert low - 1e-9 <= estimate <= high + 1e-9


@settings(max_examples=25)
@given(pairs())
def test_a_difference_changes_sign_with_its_sides(made_row, pair) -> None:
    tokens, nats, other = pair
    row, base = row_of(made_row, tokens, nats), row_of(made_row, tokens, other, "gpt-40m")
    there, back = difference(row, base), difference(base, row)
    assert there.delta == pytest.approx(nll(row) - nll(base)) == pytest.approx(-back.delta)
    assert there.interval == pytest.approx((-back.interval.high, -back.interval.low))
    assert there.p == back.p


@settings(max_examples=25)
@given(pairs())
def test_a_row_does_not_differ_from_itself(made_row, pair) -> None:
    tokens, nats, _ = pair
    row = row_of(made_row, tokens, nats)
    assert difference(row, row) == (0, (0, 0), 1, (0,) * len(nats))


@settings(max_examples=25)
@given(pairs(), st.floats(-3, 3))
def test_a_constant_more_on_every_token_moves_all_by_that_constant(made_row, pair, constant) -> None:
    tokens, nats, _ = pair
    row, moved = row_of(made_row, tokens, nats), row_of(made_row, tokens, nats + constant * tokens)
    found = difference(moved, row)
    assert (found.delta, *found.interval) == pytest.approx([constant] * 3, abs=1e-9)
    assert interval(moved) == pytest.approx(np.add(interval(row), constant), abs=1e-9)


@settings(max_examples=25)
@given(pairs(), st.randoms())
def test_the_order_of_seeds_does_not_matter(made_row, pair, random) -> None:
    tokens, nats, _ = pair
    order = list(range(len(nats)))
    random.shuffle(order)
    row, shuffled = row_of(made_row, tokens, nats), row_of(made_row, tokens, nats[order])
    assert nll(shuffled) == pytest.approx(nll(row))
    assert interval(shuffled) == pytest.approx(interval(row))


def test_four_times_the_recordings_halve_the_interval(made_row) -> None:
    few, many = (interval(made_row(recordings=n)) for n in (200, 800))
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(0.5, abs=0.1)


def test_pairing_takes_out_what_recordings_share(made_row) -> None:
    row, base = made_row("gpt-40m", 1.98), made_row(nll=2.0)
    alone, paired = interval(row), difference(row, base).interval
    assert (alone.high - alone.low) > 5 * (paired.high - paired.low)


def test_the_same_call_gives_the_same_numbers(made_row) -> None:
    first, again = (difference(made_row("gpt-40m", 1.98), made_row(nll=2.0)) for _ in range(2))
    assert first == again


def test_p_of_few_recordings_counts_every_choice_of_signs(made_row) -> None:
    tokens = np.full(5, 100)
    row, base = (row_of(made_row, tokens, np.array([nats])) for nats in ([11.0, 12, 13, 14, 15], [10.0] * 5))
    assert difference(row, base).p == 2 / 2**5


def test_seeds_are_paired_where_both_rows_have_the_same_ones(made_row) -> None:
    tokens = np.array([100, 300])
    row, base = (row_of(made_row, tokens, np.array(nats)) for nats in ([[80, 80], [120, 120]], [[40, 80], [40, 120]]))
    assert difference(row, base).by_seed == pytest.approx((0.1, 0.2))
    assert difference(row, made_row(recordings=2, seeds=1, tokens=tokens)).by_seed == ()


@pytest.mark.parametrize("count", [5, 14, 28])
def test_intervals_of_few_groups_are_as_wide_as_those_of_student(made_row, monkeypatch, count) -> None:
    monkeypatch.setattr(statistics, "_RESAMPLES", 999)
    rng, trials, tokens = np.random.default_rng(2), 400, np.full(count, 100)
    held = 0
    for _ in range(trials):
        low, high = interval(row_of(made_row, tokens, rng.normal(2, 0.3, (1, count)) * tokens))
        held += low <= 2 <= high
    # Plain percentiles hold it in 80, 89 and 91 %.
    assert held / trials >= 0.925


def test_rows_on_other_tokens_are_refused(made_row) -> None:
    row = made_row("hybrid-4m")
    with pytest.raises(ValueError, match=r"hybrid-4m and gpt-4m.*same tokens"):
        difference(row, made_row(tokens=row.tokens + 1))
    with pytest.raises(ValueError, match="same recordings"):
        difference(row, made_row(recordings=39))


@pytest.mark.parametrize("field", ["nats", "correct", "tokens", "position_nats"])
def test_shapes_that_would_broadcast_are_refused(made_row, field) -> None:
    with pytest.raises(ValueError, match="gpt-4m"):
        made_row(**{field: np.ones(1, np.int64)})


def test_a_recording_without_tokens_is_refused(made_row) -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        made_row(recordings=2, tokens=np.array([0, 5]))


def test_intervals_hold_the_truth_19_times_of_20_and_the_test_errs_once(made_row, monkeypatch) -> None:
    # Long recordings are the harder ones, so that a mean of ratios would miss; the two rows differ by chance alone.
    monkeypatch.setattr(statistics, "_RESAMPLES", 999)
    rng, trials, count = np.random.default_rng(1), 400, 150

    def draw(recordings: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.maximum(1, rng.lognormal(5, 0.6, recordings)).astype(np.int64)
        return tokens, (rng.normal(2, 0.3, recordings) + 0.2 * np.log(tokens)) * tokens

    many_tokens, many_nats = draw(1_000_000)
    truth = many_nats.sum() / many_tokens.sum()
    held = held_paired = rejected = 0
    for _ in range(trials):
        tokens, nats = draw(count)
        row = row_of(made_row, tokens, nats[None])
        base = row_of(made_row, tokens, (nats + rng.normal(0, 0.1, count) * tokens)[None], "gpt-40m")
        low, high = interval(row)
        found = difference(row, base)
        held += low <= truth <= high
        held_paired += found.interval.low <= 0 <= found.interval.high
        rejected += found.p < 0.05
    # Four standard deviations of a share of 400 trials are 4.4 points.
    assert 0.90 <= held / trials <= 0.985
    assert 0.90 <= held_paired / trials <= 0.985
    assert 0.015 <= rejected / trials <= 0.10
