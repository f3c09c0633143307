"""N-gram baselines over tokens: counts with modified Kneser-Ney smoothing.

An n-gram is one int64: its tokens as digits in base V + 1, the oldest first. The digit V marks the start of a sequence.
So the n-grams of one context are adjacent in a sorted array, and searchsorted finds them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from whisper_gpt.model.errors import ModelError

# Tokens per block of n-grams: sorting a block takes about 200 MB, and blocks of this size need few merges.
_BLOCK_TOKENS = 1 << 22


@dataclass(frozen=True)
class Counts:
    """The distinct n-grams of one order: int64 `grams` `[N]`, sorted, and their counts, int64 `times` `[N]`."""

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
    """A model over tokens 0 to `vocab` - 1, with a level for each order 1, 2, …"""

    vocab: int
    levels: tuple[Level, ...]

    def parameter_count(self) -> int:
        """Return the number of n-grams of all orders."""
        return sum(len(level.grams) for level in self.levels)


def count(sequences: Iterable[np.ndarray], vocab: int, order: int) -> Counts:
    """Count the n-grams in sequences of tokens, integers `[T]`; the context of the first tokens is padded.

    Takes at most about 100 bytes of memory per token while it merges (order 5, 20 million tokens: 2.0 GB, 8 s).
    Raises `ModelError` if a token is outside the vocabulary, or if n-grams of this order do not fit in an int64.
    """
    if order < 1 or (vocab + 1) ** order >= 1 << 63:
        limits = f"the order must be at least 1, and {vocab + 1}^order below 2^63"
        raise ModelError(f"n-grams of order {order} over {vocab} tokens: {limits}")
    # Each run is more than twice as long as the next, so that a token is copied O(log N) times, not once per block.
    runs: list[tuple[np.ndarray, np.ndarray]] = []
    for block in _blocks(sequences, vocab, order):
        runs.append(np.unique(_grams(block, vocab, order), return_counts=True))
        while len(runs) > 1 and 2 * len(runs[-1][0]) >= len(runs[-2][0]):
            runs[-2:] = [_merged(runs[-2:])]
    grams, times = _merged(runs)
    return Counts(vocab, order, grams, times)


def fit(counts: Counts, order: int) -> NGram:
    """Fit interpolated modified Kneser-Ney of `order`, at most that of the counts (Chen and Goodman 1998, TR-10-98).

    The highest order uses raw counts. A lower order uses continuation counts (how many different tokens precede the
    n-gram), except for n-grams that begin with the start marker: nothing precedes it, so they keep their raw count.
    Order 1 falls back to 1/V. Raises `ModelError` if `order` was not counted.
    """
    if not 1 <= order <= counts.order:
        raise ModelError(f"no model of order {order}: n-grams were counted up to order {counts.order}")
    begin, base = counts.vocab, counts.vocab + 1
    grams, times = counts.grams, counts.times
    if order < counts.order:
        grams, times, _ = _grouped(grams % base**order, times)
    adjusted = times
    levels: list[Level] = []
    for length in range(order, 0, -1):
        if length < order:
            grams, times, continuations = _grouped(grams % base**length, times)
            adjusted = np.where(grams // base ** (length - 1) == begin, times, continuations)
        # Padding carries no information: of the contexts that reach the start, keep those with a single marker.
        informative = grams // base ** max(length - 2, 0) % base != begin
        levels.append(Level(grams[informative], adjusted[informative], _discounts(adjusted[informative])))
    return NGram(counts.vocab, tuple(reversed(levels)))


def log_probabilities(model: NGram, tokens: np.ndarray) -> np.ndarray:
    """Return float64 log-probabilities (natural) `[T, V]` of the token at each position of `tokens` `[T]`, given those
    before it.

    p(w | h) = (c(hw) - D(c(hw)) + p(w | h without its oldest) · Σ D(c(hv))) / Σ c(hv), sums over the v seen after h;
    if h was never seen, p(w | h without its oldest). Raises `ModelError` if a token is outside the vocabulary.
    """
    base, order = model.vocab + 1, len(model.levels)
    padded = _padded([tokens], model.vocab, order)
    probabilities = np.full((len(tokens), model.vocab), 1 / model.vocab)
    context = np.zeros(len(tokens), np.int64)
    for back, level in enumerate(model.levels):
        if back:  # the context is one token longer than at the previous level
            start = order - 1 - back
            context += padded[start : start + len(tokens)] * base ** (back - 1)
        _interpolate(probabilities, level, context * base, base)
    return np.log(probabilities, out=probabilities)


def _interpolate(probabilities: np.ndarray, level: Level, first: np.ndarray, base: int) -> None:
    """Interpolate the lower order's `probabilities` `[T, V]` with `level`, in place.

    `first` `[T]` holds for each position the n-gram of its context and token 0.
    """
    start, end = np.searchsorted(level.grams, first), np.searchsorted(level.grams, first + base)
    matches = end - start
    row = np.repeat(np.arange(len(first)), matches)
    at = np.arange(len(row)) + np.repeat(start - (np.cumsum(matches) - matches), matches)
    counts, tokens = level.counts[at], level.grams[at] % base
    discounts = level.discounts[np.minimum(counts, 3) - 1]
    total = np.bincount(row, counts, len(first))
    total_discount = np.bincount(row, discounts, len(first))
    probabilities *= np.divide(total_discount, total, out=np.ones(len(first)), where=matches > 0)[:, None]
    probabilities[row, tokens] += (counts - discounts) / total[row]


def _discounts(counts: np.ndarray) -> np.ndarray:
    """Estimate D1, D2 and D3+ from the numbers of n-grams with count 1, 2, 3 and 4 (ibid., the formulas for Y and D).

    If one of these numbers is 0, or a discount would not be positive (nothing would be left for unseen tokens), return
    0.5, 1 and 1.5, as KenLM's --discount_fallback does. Otherwise each D is below the count it is subtracted from.
    """
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        estimated = np.array([1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if estimated.min() > 0:
            return estimated
    return np.array([0.5, 1.0, 1.5])


def _blocks(sequences: Iterable[np.ndarray], vocab: int, order: int) -> Iterator[np.ndarray]:
    """Concatenate padded sequences into arrays of about `_BLOCK_TOKENS` tokens."""
    pending: list[np.ndarray] = []
    tokens = 0
    for sequence in sequences:
        pending.append(sequence)
        tokens += len(sequence)
        if tokens >= _BLOCK_TOKENS:
            yield _padded(pending, vocab, order)
            pending, tokens = [], 0
    yield _padded(pending, vocab, order)


def _padded(sequences: list[np.ndarray], vocab: int, order: int) -> np.ndarray:
    """Concatenate the sequences as int64, each after `order` - 1 start markers."""
    padding = np.full(order - 1, vocab)
    for sequence in sequences:
        if len(sequence) and not 0 <= sequence.min() <= sequence.max() < vocab:
            raise ModelError(f"tokens from {sequence.min()} to {sequence.max()} are outside a vocabulary of {vocab}")
    parts = [part for sequence in sequences for part in (padding, sequence)]
    return np.concatenate(parts or [padding]).astype(np.int64, copy=False)


def _grams(padded: np.ndarray, vocab: int, order: int) -> np.ndarray:
    """Return the n-gram that ends at each token (not at markers). The padding keeps it within one sequence."""
    length = max(len(padded) - order + 1, 0)
    grams = np.zeros(length, np.int64)
    for digit in range(order):
        grams *= vocab + 1
        grams += padded[digit : digit + length]
    return grams[padded[order - 1 :] < vocab]


def _merged(runs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Merge several runs of n-grams and counts into one."""
    grams, times, _ = _grouped(*(np.concatenate(part) for part in zip(*runs, strict=True)))
    return grams, times


def _grouped(keys: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct keys, sorted; for each key the sum of its `times`; and how often it occurs in `keys`."""
    order = np.argsort(keys, kind="stable")  # linear when merging, because it detects sorted runs
    keys, times = keys[order], times[order]
    start = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[start], np.add.reduceat(times, start), np.diff(start, append=len(keys))
