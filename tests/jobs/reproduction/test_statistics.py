"""Properties of NLL, intervals and differences, and the coverage of the intervals."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whisper_gpt.jobs.common import bootstrap
from whisper_gpt.jobs.reproduction.results import RowResult
from whisper_gpt.jobs.reproduction.statistics import (
    accuracy,
    change_of_difference,
    difference,
    interval,
    nll,
    nll_by_seed,
    perplexity,
    seed_sd,
)


@st.composite
def pairs(draw, min_recordings: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens `[N]` of two rows, and the nats `[S, N]` of each."""
    count, seeds = draw(st.integers(min_recordings, 12)), draw(st.integers(1, 3))
    tokens = np.array(draw(st.lists(st.integers(1, 5000), min_size=count, max_size=count)))
    rate = st.floats(0.01, 8)
    rates = [draw(st.lists(rate, min_size=seeds * count, max_size=seeds * count)) for _ in range(2)]
    first, second = (np.array(r).reshape(seeds, count) * tokens for r in rates)
    return tokens, first, second


def row_of(result_row, tokens: np.ndarray, nats: np.ndarray, name: str = "gpt-4m") -> RowResult:
    correct = np.zeros(nats.shape, np.int64)
    return result_row(name, recordings=len(tokens), seeds=len(nats), tokens=tokens, nats=nats, correct=correct)


def test_nll_is_a_ratio_of_sums(result_row) -> None:
    row = row_of(result_row, np.array([1, 3]), np.array([[4.0, 2.0], [6.0, 4.0]]))
    assert nll_by_seed(row) == [1.5, 2.5]
    assert nll(row) == 2.0
    assert perplexity(row) == pytest.approx(math.e**2)
    assert seed_sd(row) == pytest.approx(math.sqrt(0.5))


def test_accuracy_is_the_share_of_correct_tokens(result_row) -> None:
    row = result_row(recordings=2, tokens=np.array([10, 30]), correct=np.array([[5, 5], [10, 20]]))
    assert accuracy(row) == 0.5


def test_one_seed_has_no_spread(result_row) -> None:
    assert seed_sd(result_row(seeds=1)) is None


def test_one_recording_has_no_interval_and_no_p_value(result_row) -> None:
    row, base = result_row(nll=2.0, recordings=1), result_row("gpt-40m", 3.0, recordings=1)
    result = difference(row, base)
    assert interval(row) is None and result.interval is None and result.p is None
    assert result.delta == pytest.approx(-1, abs=0.1)


@settings(max_examples=25)
@given(pairs())
def test_interval_contains_the_estimate(result_row, pair) -> None:
    tokens, nats, base_nats = pair
    row, base = row_of(result_row, tokens, nats), row_of(result_row, tokens, base_nats, "gpt-40m")
    result = difference(row, base)
    for estimate, (low, high) in ((nll(row), interval(row)), (result.delta, result.interval)):
        assert low - 1e-9 <= estimate <= high + 1e-9


@settings(max_examples=25)
@given(pairs())
def test_difference_is_antisymmetric(result_row, pair) -> None:
    tokens, nats, base_nats = pair
    row, base = row_of(result_row, tokens, nats), row_of(result_row, tokens, base_nats, "gpt-40m")
    forward, backward = difference(row, base), difference(base, row)
    assert forward.delta == pytest.approx(nll(row) - nll(base)) == pytest.approx(-backward.delta)
    assert forward.interval == pytest.approx((-backward.interval.high, -backward.interval.low))
    assert forward.p == backward.p


@settings(max_examples=25)
@given(pairs())
def test_row_does_not_differ_from_itself(result_row, pair) -> None:
    tokens, nats, _ = pair
    row = row_of(result_row, tokens, nats)
    assert difference(row, row) == (0, (0, 0), 1, (0,) * len(nats))


@settings(max_examples=25)
@given(pairs(), st.floats(-3, 3))
def test_constant_offset_shifts_estimates_and_intervals(result_row, pair, constant) -> None:
    tokens, nats, _ = pair
    row, shifted = row_of(result_row, tokens, nats), row_of(result_row, tokens, nats + constant * tokens)
    result = difference(shifted, row)
    assert (result.delta, *result.interval) == pytest.approx([constant] * 3, abs=1e-9)
    assert interval(shifted) == pytest.approx(np.add(interval(row), constant), abs=1e-9)


@settings(max_examples=25)
@given(pairs(), st.randoms())
def test_order_of_seeds_does_not_matter(result_row, pair, random) -> None:
    tokens, nats, _ = pair
    order = list(range(len(nats)))
    random.shuffle(order)
    row, shuffled = row_of(result_row, tokens, nats), row_of(result_row, tokens, nats[order])
    assert nll(shuffled) == pytest.approx(nll(row))
    assert interval(shuffled) == pytest.approx(interval(row))


def test_four_times_the_recordings_halve_the_interval(result_row) -> None:
    few, many = (interval(result_row(recordings=n)) for n in (200, 800))
    assert (many.high - many.low) / (few.high - few.low) == pytest.approx(0.5, abs=0.1)


def test_pairing_removes_shared_difficulty(result_row) -> None:
    row, base = result_row("gpt-40m", 1.98), result_row(nll=2.0)
    unpaired, paired = interval(row), difference(row, base).interval
    assert (unpaired.high - unpaired.low) > 5 * (paired.high - paired.low)


def test_difference_is_deterministic(result_row) -> None:
    first, second = (difference(result_row("gpt-40m", 1.98), result_row(nll=2.0)) for _ in range(2))
    assert first == second


def test_p_value_of_few_recordings_enumerates_all_signs(result_row) -> None:
    tokens = np.full(5, 100)
    row, base = (row_of(result_row, tokens, np.array([nats])) for nats in ([11.0, 12, 13, 14, 15], [10.0] * 5))
    assert difference(row, base).p == 2 / 2**5


def test_rows_with_the_same_seeds_are_paired_by_seed(result_row) -> None:
    tokens = np.array([100, 300])
    row, base = (row_of(result_row, tokens, np.array(nats)) for nats in ([[80, 80], [120, 120]], [[40, 80], [40, 120]]))
    assert difference(row, base).by_seed == pytest.approx((0.1, 0.2))
    assert difference(row, result_row(recordings=2, seeds=1, tokens=tokens)).by_seed == ()


@pytest.mark.parametrize("count", [5, 14, 28])
def test_intervals_of_few_groups_have_student_width(result_row, monkeypatch, count) -> None:
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 999)
    rng, trials, tokens = np.random.default_rng(2), 400, np.full(count, 100)
    covered = 0
    for _ in range(trials):
        low, high = interval(row_of(result_row, tokens, rng.normal(2, 0.3, (1, count)) * tokens))
        covered += low <= 2 <= high
    # Plain percentile intervals cover only 80, 89 and 91 %.
    assert covered / trials >= 0.925


def test_rows_on_different_tokens_are_refused(result_row) -> None:
    row = result_row("hybrid-4m")
    with pytest.raises(ValueError, match=r"hybrid-4m and gpt-4m.*same tokens"):
        difference(row, result_row(tokens=row.tokens + 1))
    with pytest.raises(ValueError, match="same recordings"):
        difference(row, result_row(recordings=39))


@pytest.mark.parametrize("field", ["nats", "correct", "tokens", "position_nats"])
def test_shapes_that_would_broadcast_are_refused(result_row, field) -> None:
    with pytest.raises(ValueError, match="gpt-4m"):
        result_row(**{field: np.ones(1, np.int64)})


def test_recording_without_tokens_is_refused(result_row) -> None:
    with pytest.raises(ValueError, match="at least 1 token"):
        result_row(recordings=2, tokens=np.array([0, 5]))


def test_holm_corrects_in_order_of_size() -> None:
    assert bootstrap.holm([0.04, None, 0.01, 0.03]) == pytest.approx([0.06, None, 0.03, 0.06])
    assert bootstrap.holm([0.5, 0.9]) == [1.0, 1.0] and bootstrap.holm([]) == []


def test_change_of_difference_is_a_difference_of_differences(result_row) -> None:
    rows = [result_row(f"row {i}", 2.0 + 0.1 * i) for i in range(4)]
    change = change_of_difference(*rows)
    expected = nll(rows[0]) - nll(rows[1]) - (nll(rows[2]) - nll(rows[3]))
    assert change.delta == pytest.approx(expected) and len(change.by_seed) == 2
    assert change.interval.low < change.delta < change.interval.high
    shorter = result_row(recordings=11)
    with pytest.raises(ValueError, match="same recordings"):
        change_of_difference(rows[0], rows[1], shorter, shorter)


def test_intervals_cover_95_percent_and_tests_reject_5(result_row, monkeypatch) -> None:
    # Long recordings are harder, so a mean of ratios would be biased; the two rows differ only by chance.
    monkeypatch.setattr(bootstrap, "_RESAMPLES", 999)
    rng, trials, count = np.random.default_rng(1), 400, 150

    def draw(recordings: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.maximum(1, rng.lognormal(5, 0.6, recordings)).astype(np.int64)
        return tokens, (rng.normal(2, 0.3, recordings) + 0.2 * np.log(tokens)) * tokens

    many_tokens, many_nats = draw(1_000_000)
    truth = many_nats.sum() / many_tokens.sum()
    covered = covered_paired = rejected = 0
    for _ in range(trials):
        tokens, nats = draw(count)
        row = row_of(result_row, tokens, nats[None])
        base = row_of(result_row, tokens, (nats + rng.normal(0, 0.1, count) * tokens)[None], "gpt-40m")
        low, high = interval(row)
        result = difference(row, base)
        covered += low <= truth <= high
        covered_paired += result.interval.low <= 0 <= result.interval.high
        rejected += result.p < 0.05
    # Four standard deviations of a share of 400 trials are 4.4 points.
    assert 0.90 <= covered / trials <= 0.985
    assert 0.90 <= covered_paired / trials <= 0.985
    assert 0.015 <= rejected / trials <= 0.10
