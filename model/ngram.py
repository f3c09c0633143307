"""The floors: n-gram models of the tokens, with nothing learnt but counts, by modified Kneser-Ney smoothing.

An n-gram is one int64: its tokens as digits in base V + 1, the oldest first. The digit V stands for the begin of a
sequence. So n-grams of one context lie side by side in a sorted array, and searchsorted finds them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from whisper_gpt.model.errors import ModelError

# Tokens turned into n-grams at once: sorting them takes about 200 MB, and a merge for so many is cheap.
_BLOCK_TOKENS = 1 << 22


@dataclass(frozen=True)
class Counts:
    """The n-grams of one order that occur: int64 `grams` `[N]`, sorted, and how often, int64 `times` `[N]`."""

    vocab: int
    order: int
    grams: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Level:
    """The n-grams of one order: int64 `grams` `[N]`, sorted, their adjusted counts, int64 `[N]`, and D1, D2, D3+."""

    grams: np.ndarray
    counts: np.ndarray
    discounts: np.ndarray  # float64 [3]


@dataclass(frozen=True)
class NGram:
    """The levels of order 1, 2, … of a model over tokens 0 to `vocab` - 1."""

    vocab: int
    levels: tuple[Level, ...]

    def parameter_count(self) -> int:
        """The n-grams of all orders."""
        return sum(len(level.grams) for level in self.levels)


def count(sequences: Iterable[np.ndarray], vocab: int, order: int) -> Counts:
    """Count the n-grams in sequences of tokens, integers `[T]`; contexts that reach before the begin are padded.

    Takes at most about 100 bytes of memory a token while it merges (of order 5, 20 million tokens: 2.0 GB, 8 s).
    Raises `ModelError` for tokens outside the vocabulary, and where n-grams of this order do not fit in an int64.
    """
    if order < 1 or (vocab + 1) ** order >= 1 << 63:
        raise ModelError(f"n-grams of order {order} over {vocab} tokens: 1 at least, and {vocab + 1}^order below 2^63")
    # Each run is more than twice as long as the next, so that a token is copied O(log N) times and not at every block.
    runs: list[tuple[np.ndarray, np.ndarray]] = []
    for block in _blocks(sequences, vocab, order):
        runs.append(np.unique(_grams(block, vocab, order), return_counts=True))
        while len(runs) > 1 and 2 * len(runs[-1][0]) >= len(runs[-2][0]):
            runs[-2:] = [_merged(runs[-2:])]
    grams, times = _merged(runs)
    return Counts(vocab, order, grams, times)


def fit(counts: Counts, order: int) -> NGram:
    """Interpolated modified Kneser-Ney of `order`, at most that of the counts (Chen and Goodman 1998, TR-10-98).

    The highest order keeps its counts. Below it an n-gram counts as often as there are different tokens before it; but
    one that starts with the begin, before which there is nothing, keeps its count. Order 1 falls back to 1/V.
    Raises `ModelError` for an order that was not counted.
    """
    if not 1 <= order <= counts.order:
        raise ModelError(f"n-grams up to order {counts.order} were counted: no model of order {order}")
    begin, base = counts.vocab, counts.vocab + 1
    grams, times = counts.grams, counts.times
    if order < counts.order:
        grams, times, _ = _grouped(grams % base**order, times)
    adjusted = times
    levels: list[Level] = []
    for length in range(order, 0, -1):
        if length < order:
            grams, times, before = _grouped(grams % base**length, times)
            adjusted = np.where(grams // base ** (length - 1) == begin, times, before)
        # Padding keeps shapes alike and says nothing: of the contexts that reach the begin, those with one are enough.
        told = grams // base ** max(length - 2, 0) % base != begin
        levels.append(Level(grams[told], adjusted[told], _discounts(adjusted[told])))
    return NGram(counts.vocab, tuple(reversed(levels)))


def log_probabilities(model: NGram, tokens: np.ndarray) -> np.ndarray:
    """Natural logarithms `[T, V]`, float64, of each token's probability given those before it in a sequence `[T]`.

    p(w | h) = (c(hw) - D(c(hw)) + p(w | h without its oldest) · Σ D(c(hv))) / Σ c(hv), sums over the v seen after h;
    where h was never seen, p(w | h without its oldest). Raises `ModelError` for tokens outside the vocabulary.
    """
    base, order = model.vocab + 1, len(model.levels)
    padded = _padded([tokens], model.vocab, order)
    probabilities = np.full((len(tokens), model.vocab), 1 / model.vocab)
    context = np.zeros(len(tokens), np.int64)
    for back, level in enumerate(model.levels):
        if back:  # the context's tokens: one more than the level before
            start = order - 1 - back
            context += padded[start : start + len(tokens)] * base ** (back - 1)
        _interpolate(probabilities, level, context * base, base)
    return np.log(probabilities, out=probabilities)


def _interpolate(probabilities: np.ndarray, level: Level, first: np.ndarray, base: int) -> None:
    """Turn `[T, V]` of a level into the next longer contexts', in place; `first` `[T]`: each context before a 0."""
    start, end = np.searchsorted(level.grams, first), np.searchsorted(level.grams, first + base)
    found = end - start
    row = np.repeat(np.arange(len(first)), found)
    at = np.arange(len(row)) + np.repeat(start - (np.cumsum(found) - found), found)
    counts, tokens = level.counts[at], level.grams[at] % base
    discounts = level.discounts[np.minimum(counts, 3) - 1]
    total = np.bincount(row, counts, len(first))
    total_discount = np.bincount(row, discounts, len(first))
    probabilities *= np.divide(total_discount, total, out=np.ones(len(first)), where=found > 0)[:, None]
    probabilities[row, tokens] += (counts - discounts) / total[row]


def _discounts(counts: np.ndarray) -> np.ndarray:
    """D1, D2 and D3+ from how many n-grams count 1, 2, 3 and 4 (ibid., the estimates of Y and D).

    Where there are none of one of these, or a discount would not be positive (a context would have nothing left over
    for unseen tokens), the order has 0.5, 1 and 1.5, as with KenLM's --discount_fallback. With n-grams of each, D is
    below the count it is taken from.
    """
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        estimated = np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if estimated.min() > 0:
            return estimated
    return np.array([0.5, 1.0, 1.5])


def _blocks(sequences: Iterable[np.ndarray], vocab: int, order: int) -> Iterator[np.ndarray]:
    """Sequences, each after its padding, one after another in arrays of about `_BLOCK_TOKENS` tokens."""
    held: list[np.ndarray] = []
    tokens = 0
    for sequence in sequences:
        held.append(sequence)
        tokens += len(sequence)
        if tokens >= _BLOCK_TOKENS:
            yield _padded(held, vocab, order)
            held, tokens = [], 0
    yield _padded(held, vocab, order)


def _padded(sequences: list[np.ndarray], vocab: int, order: int) -> np.ndarray:
    """int64 of the sequences, `order` - 1 begins before each."""
    padding = np.full(order - 1, vocab)
    for sequence in sequences:
        if len(sequence) and not 0 <= sequence.min() <= sequence.max() < vocab:
            raise ModelError(f"tokens from {sequence.min()} to {sequence.max()}: a vocabulary of {vocab} has none such")
    parts = [part for sequence in sequences for part in (padding, sequence)]
    return np.concatenate(parts or [padding]).astype(np.int64, copy=False)


def _grams(padded: np.ndarray, vocab: int, order: int) -> np.ndarray:
    """The n-gram that ends at each token, but not at begins; since all sequences are padded, none spans two of them."""
    length = max(len(padded) - order + 1, 0)
    grams = np.zeros(length, np.int64)
    for digit in range(order):
        grams *= vocab + 1
        grams += padded[digit : digit + length]
    return grams[padded[order - 1 :] < vocab]


def _merged(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One run of the n-grams and times of several."""
    grams, times, _ = _grouped(*(np.concatenate(part) for part in zip(*runs, strict=True)))
    return grams, times


def _grouped(keys: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different keys, sorted, the sum of the times of each, and how many there were of each."""
    order = np.argsort(keys, kind="stable")  # linear in merges: it finds what is sorted already
    keys, times = keys[order], times[order]
    start = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[start], np.add.reduceat(times, start), np.diff(start, append=len(keys))
