"""N-gram baselines: modified Kneser-Ney against hand calculations and a second implementation."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.model import ngram
from whisper_gpt.model.errors import ModelError
from whisper_gpt.model.ngram import count, fit, log_probabilities

VOCAB = 4
corpora = st.lists(st.lists(st.integers(0, VOCAB - 1), max_size=30), max_size=8)
orders = st.integers(1, 5)


def arrays(corpus: Sequence[Sequence[int]]) -> list[np.ndarray]:
    return [np.array(sequence, np.int64) for sequence in corpus]


def model(corpus: Sequence[Sequence[int]], order: int, vocab: int = VOCAB) -> ngram.NGram:
    return fit(count(arrays(corpus), vocab, order), order)


def probabilities(of: ngram.NGram, *tokens: int) -> np.ndarray:
    return np.exp(log_probabilities(of, np.array(tokens, np.int64)))


def test_bigram_matches_hand_calculation() -> None:
    """The corpus is 0 1 0 and 0 2; the discounts are 0.5, 1 and 1.5 because no n-gram occurs 3 or 4 times.

    Token 0 is preceded by the begin marker and by 1; 1 and 2 are preceded only by 0. So their continuation counts are
    2, 1 and 1 of 4, and each gets a third of the mass freed by the discounts 1 + 0.5 + 0.5. Token 0 begins twice; 1 and
    2 follow once each after 0; 0 follows 1 once.
    """
    shorter = np.array([(2 - 1) / 4, 0.5 / 4, 0.5 / 4]) + 2 / 4 / 3
    assert shorter == pytest.approx([5 / 12, 7 / 24, 7 / 24])
    after_begin = np.array([(2 - 1) / 2, 0, 0]) + 1 / 2 * shorter
    after_0 = np.array([0, (1 - 0.5) / 2, (1 - 0.5) / 2]) + (0.5 + 0.5) / 2 * shorter
    after_1 = np.array([(1 - 0.5) / 1, 0, 0]) + 0.5 / 1 * shorter
    after_2 = shorter  # nothing follows 2 in the corpus
    predicted = probabilities(model([[0, 1, 0], [0, 2]], 2, vocab=3), 0, 1, 2, 0)
    assert predicted == pytest.approx(np.array([after_begin, after_0, after_1, after_2]))


def test_discounts_match_hand_calculation() -> None:
    """8 tokens occur once, 4 twice, 2 three times and 1 four times: Y = 8 / (8 + 2·4) = 1/2."""
    corpus = [token for token, times in enumerate([1] * 8 + [2] * 4 + [3] * 2 + [4]) for _ in range(times)]
    unigram = model([corpus], 1, vocab=16)
    assert unigram.levels[0].discounts == pytest.approx([1 - 2 / 2 * 4 / 8, 2 - 3 / 2 * 2 / 4, 3 - 4 / 2 * 1 / 2])
    freed = (8 * 0.5 + 4 * 1.25 + 3 * 2) / 26
    expected = np.array([0.5] * 8 + [0.75] * 4 + [1] * 2 + [2] + [0]) / 26 + freed / 16
    assert probabilities(unigram, 3, 5) == pytest.approx(np.array([expected, expected]))


@given(corpora, orders, st.lists(st.integers(0, VOCAB - 1), max_size=12))
def test_every_row_is_a_probability_distribution(corpus: list[list[int]], order: int, scored: list[int]) -> None:
    """For any corpus, including an empty one, and for seen and unseen contexts."""
    rows = log_probabilities(model(corpus, order), np.array(scored, np.int64))
    assert rows.shape == (len(scored), VOCAB) and np.isfinite(rows).all()
    assert np.abs(np.exp(rows).sum(axis=1) - 1).max(initial=0) < 1e-9


@given(corpora, orders, st.lists(st.integers(0, VOCAB - 1), max_size=12))
def test_matches_a_reference_with_dictionaries(corpus: list[list[int]], order: int, scored: list[int]) -> None:
    fast = model(corpus, order)
    slow = reference(corpus, order, [level.discounts for level in fast.levels])
    histories = [tuple(["B", *scored[:at]][max(at + 2 - order, 0) :]) for at in range(len(scored))]
    expected = [[slow(token, history) for token in range(VOCAB)] for history in histories]
    assert probabilities(fast, *scored) == pytest.approx(np.array(expected).reshape(-1, VOCAB))


def reference(corpus: list[list[int]], order: int, discounts: list[np.ndarray]) -> Callable[[int, tuple], float]:
    """p(token, context) after Chen and Goodman's definitions, with one begin marker "B" before each sequence."""
    times: Counter = Counter()
    before = defaultdict(set)
    for sequence in corpus:
        marked = ["B", *sequence]
        for end in range(1, len(marked)):
            for start in range(max(end - order + 1, 0), end + 1):
                times[tuple(marked[start : end + 1])] += 1
                if start > 0:
                    before[tuple(marked[start : end + 1])].add(marked[start - 1])
    counts: dict = defaultdict(Counter)
    for gram, occurrences in times.items():
        raw = len(gram) == order or gram[0] == "B"
        counts[gram[:-1]][gram[-1]] = occurrences if raw else len(before[gram])

    def p(token: int, context: tuple) -> float:
        shorter = p(token, context[1:]) if context else 1 / VOCAB
        seen = counts[context]
        if not seen:
            return shorter
        d = {v: discounts[len(context)][min(c, 3) - 1] for v, c in seen.items()}
        return (seen[token] - d.get(token, 0) + sum(d.values()) * shorter) / sum(seen.values())

    return p


@given(corpora, orders)
def test_lower_order_can_be_fitted_from_higher_order_counts(corpus: list[list[int]], order: int) -> None:
    direct, from_longer = model(corpus, order), fit(count(arrays(corpus), VOCAB, 5), order)
    assert direct.parameter_count() == from_longer.parameter_count()
    assert np.array_equal(probabilities(direct, 0, 1, 2, 3, 0, 1), probabilities(from_longer, 0, 1, 2, 3, 0, 1))


def test_counting_in_blocks_equals_counting_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = [np.random.default_rng(seed).integers(0, VOCAB, seed % 17) for seed in range(200)]
    at_once = count(corpus, VOCAB, 3)
    monkeypatch.setattr(ngram, "_BLOCK_TOKENS", 20)
    in_blocks = count((sequence.astype(np.int16) for sequence in corpus), VOCAB, 3)
    assert np.array_equal(at_once.grams, in_blocks.grams) and np.array_equal(at_once.times, in_blocks.times)
    assert at_once.times.sum() == sum(map(len, corpus))


def test_n_grams_do_not_cross_sequences() -> None:
    """Each sequence starts with a begin marker of its own."""
    bigram = count(arrays([[0, 1], [2, 3]]), VOCAB, 2)
    begin, base = VOCAB, VOCAB + 1
    assert bigram.grams.tolist() == [0 * base + 1, 2 * base + 3, begin * base + 0, begin * base + 2]


def test_longer_contexts_learn_longer_patterns() -> None:
    """In 0 0 1 1 repeated, a bigram cannot predict the next token; a trigram and a 5-gram can."""
    pattern = np.tile([0, 0, 1, 1], 50)
    counts = count([pattern[start:] for start in range(4)], VOCAB, 5)
    nats = []
    for order in (1, 2, 3, 5):
        rows = log_probabilities(fit(counts, order), pattern)
        nats.append(-rows[np.arange(len(pattern)), pattern].mean())
    assert nats[0] == pytest.approx(np.log(2), abs=0.05) and nats[1] == pytest.approx(np.log(2), abs=0.05)
    assert nats[2] < 0.05 and nats[3] < 0.05


def test_5_grams_of_1024_tokens_do_not_overflow() -> None:
    corpus = [np.array([1023, 1023, 1023, 1023, 1023, 0])]
    five_gram = fit(count(corpus, 1024, 5), 5)
    assert probabilities(five_gram, 1023, 1023, 1023, 1023, 1023)[4].argmax() == 1023
    assert five_gram.parameter_count() == 2 + 4 * 3  # 0 and 1023; longer orders: first, repeated, last


@pytest.mark.parametrize("vocab, order", [(1024, 0), (1024, 7)])
def test_unsupported_orders_are_refused(vocab: int, order: int) -> None:
    with pytest.raises(ModelError):
        count([], vocab, order)


def test_uncounted_orders_and_unknown_tokens_are_refused() -> None:
    counts = count(arrays([[0, 1]]), VOCAB, 2)
    for order in (0, 3):
        with pytest.raises(ModelError):
            fit(counts, order)
    for tokens in ([0, VOCAB], [-1]):
        with pytest.raises(ModelError):
            count(arrays([tokens]), VOCAB, 2)
        with pytest.raises(ModelError):
            probabilities(fit(counts, 2), *tokens)
