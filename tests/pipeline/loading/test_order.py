"""The order of windows: every frame once per epoch, packed or not, and mixtures keep their weights."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.mixture import BLOCK, Mixture, block_slots
from whisper_gpt.pipeline.loading.order import EpochOrder, WindowTable, cut_windows

shard_sizes = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=7)


def table_of(shards: list[list[int]], context: int, pack: bool = False) -> WindowTable:
    """Windows of shards whose samples have the given lengths."""
    frames = np.array([f for shard in shards for f in shard])
    return cut_windows(frames, np.repeat(np.arange(len(shards)), [len(shard) for shard in shards]), context, pack)


@given(shard_sizes, st.integers(1, 50), st.booleans(), st.integers(0, 100))
def test_windows_cover_every_frame_once_at_any_offset(
    shards: list[list[int]], context: int, pack: bool, offset: int
) -> None:
    table = table_of(shards, context, pack)
    windows = [table.pieces(window, offset) for window in range(len(table))]
    covered = Counter(
        (sample, frame)
        for pieces in windows
        for sample, start, frames in pieces
        for frame in range(start, start + frames)
    )
    frames = [f for shard in shards for f in shard]
    assert covered == Counter((s, frame) for s, n in enumerate(frames) for frame in range(n))
    sizes = [sum(piece.frames for piece in pieces) for pieces in windows]
    assert max(sizes) <= context and min(sizes) >= 1 and sum(sizes) == sum(frames)


@given(shard_sizes, st.integers(1, 50), st.booleans(), st.integers(0, 100))
def test_windows_do_not_cross_shards(shards: list[list[int]], context: int, pack: bool, offset: int) -> None:
    table = table_of(shards, context, pack)
    shard_of = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
    assert len(table.shard_starts) == len(shards) + 1 and table.shard_starts[-1] == len(table)
    for shard in range(len(shards)):
        for window in range(table.shard_starts[shard], table.shard_starts[shard + 1]):
            assert all(shard_of[piece.sample] == shard for piece in table.pieces(window, offset))


@given(shard_sizes, st.integers(1, 50), st.integers(0, 100))
def test_packed_windows_are_full_except_the_last_of_a_shard(shards: list[list[int]], context: int, offset: int) -> None:
    table = table_of(shards, context, pack=True)
    last = set(table.shard_starts[1:] - 1)
    for window in range(len(table)):
        assert sum(piece.frames for piece in table.pieces(window, offset)) == context or window in last


@given(shard_sizes, st.integers(1, 50), st.integers(0, 100))
def test_unpacked_windows_hold_one_sample(shards: list[list[int]], context: int, offset: int) -> None:
    table = table_of(shards, context)
    assert all(len(table.pieces(window, offset)) == 1 for window in range(len(table)))
    assert len(table) == sum(-(-f // context) for shard in shards for f in shard)


@given(shard_sizes, st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))
def test_epoch_is_a_permutation_of_the_windows(shards: list[list[int]], seed: int, epoch: int, group: int) -> None:
    table = table_of(shards, 7)
    order = EpochOrder(table, (seed,), epoch, group)
    assert sorted(order.window_at(i) for i in range(len(table))) == list(range(len(table)))


@given(shard_sizes, st.integers(1, 4))
def test_group_lists_the_shards_of_its_windows(shards: list[list[int]], group: int) -> None:
    table = table_of(shards, 7)
    order = EpochOrder(table, (0,), 0, group)
    for index in range(len(table)):
        group_shards, end = order.group_at(index)
        shard = np.searchsorted(table.shard_starts, order.window_at(index), side="right") - 1
        assert shard in group_shards and index < end <= len(table)


def test_epochs_and_seeds_have_different_orders() -> None:
    table = table_of([[30] * 6] * 6, 5)
    orders = {
        tuple(EpochOrder(table, (seed, dataset), epoch, 2).window_at(i) for i in range(len(table)))
        for seed in range(2)
        for dataset in range(2)  # equally large datasets of a mixture
        for epoch in range(2)
    }
    assert len(orders) == 8


@pytest.mark.parametrize("pack", [True, False])
def test_cuts_differ_between_epochs(pack: bool) -> None:
    table = table_of([[130, 75]] * 4, 50, pack)
    cuts = {
        frozenset((sample, start) for window in range(len(table)) for sample, start, _ in table.pieces(window, offset))
        for offset in (EpochOrder(table, (0, 0), epoch, 2).offset for epoch in range(8))
    }
    assert len(cuts) > 4


weights = st.lists(st.floats(0.05, 1.0), min_size=1, max_size=5)


@given(weights, st.integers(0, 5), st.integers(0, 3 * BLOCK))
def test_mixture_takes_every_window_of_a_dataset_once(shares: list[float], seed: int, start: int) -> None:
    """From any slot on, the windows of each dataset come in order, none twice and none left out."""
    mixture = Mixture(shares, seed)
    taken = mixture.taken(start)
    assert sum(taken) == start
    for slot in range(start, start + 200):
        dataset, index = mixture.place(slot)
        assert index == taken[dataset]
        taken[dataset] += 1


@given(weights)
def test_every_block_matches_the_weights(shares: list[float]) -> None:
    slots = block_slots(shares)
    assert slots.sum() == BLOCK
    assert np.all(np.abs(slots - BLOCK * np.array(shares) / sum(shares)) < 1)
    assert Mixture(shares, 0).taken(2 * BLOCK) == [2 * n for n in slots]


@pytest.mark.parametrize("shares", [[], [1.0, 0.0], [1.0, 1e-9]])
def test_invalid_weights_are_refused(shares: list[float]) -> None:
    with pytest.raises(PipelineError, match="weights"):
        Mixture(shares, 0)
