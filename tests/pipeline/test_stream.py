"""The stream: every frame once an epoch, by arithmetic alone; exact resume, on any number of ranks."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from torchdata.nodes import BaseNode

from manifests.fragments import read_samples
from pipeline.errors import PipelineError
from pipeline.order import EpochOrder, WindowTable, cut_windows
from pipeline.stream import StreamConfig, WindowOrder, batches, stream

tables = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=7)


def table_of(shards: list[list[int]], context: int) -> WindowTable:
    frames = np.array([f for shard in shards for f in shard])
    return cut_windows(frames, [f"s{i:03d}" for i, shard in enumerate(shards) for _ in shard], context)


@given(tables, st.integers(1, 50))
def test_windows_cover_every_frame_once(shards: list[list[int]], context: int) -> None:
    table = table_of(shards, context)
    covered = Counter(
        (int(s), frame)
        for s, start, n in zip(table.sample, table.start, table.frames, strict=True)
        for frame in range(start, start + n)
    )
    frames = [f for shard in shards for f in shard]
    assert covered == Counter((s, frame) for s, n in enumerate(frames) for frame in range(n))
    assert table.frames.max() <= context and table.frames.min() >= 1


@given(tables, st.integers(0, 3), st.integers(0, 3), st.integers(1, 4))
def test_an_epoch_is_a_permutation(shards: list[list[int]], seed: int, epoch: int, group: int) -> None:
    table = table_of(shards, 7)
    order = EpochOrder(table, seed, epoch, group)
    assert sorted(order.window_at(i) for i in range(len(table))) == list(range(len(table)))


def test_epochs_and_seeds_differ() -> None:
    table = table_of([[30] * 6] * 6, 5)
    orders = {
        tuple(EpochOrder(table, seed, epoch, 2).window_at(i) for i in range(len(table)))
        for seed in range(2)
        for epoch in range(2)
    }
    assert len(orders) == 4


def take(node: BaseNode, count: int) -> list[Any]:
    return [next(node) for _ in range(count)]


@settings(deadline=None)
@given(tables, st.integers(1, 4), st.lists(st.tuples(st.integers(1, 3), st.integers(0, 5)), min_size=1, max_size=5))
def test_any_restarts_on_any_ranks_read_one_order(
    shards: list[list[int]], batch: int, phases: list[tuple[int, int]]
) -> None:
    """Each phase runs some steps on some number of ranks and hands its state on; together they read one sequence."""
    table = table_of(shards, 7)
    read: list[int] = []
    state = None
    for world, steps in phases:
        nodes = [WindowOrder(table, StreamConfig(7, batch, seed=1, rank=r, world=world)) for r in range(world)]
        for node in nodes:
            node.reset(state)
        for _ in range(steps):
            read += [window for node in nodes for window in next(node)]
        states = [node.state_dict() for node in nodes]
        assert all(s == states[0] for s in states)
        state = states[0]
    alone = WindowOrder(table, StreamConfig(7, 1, seed=1))
    assert read == [window for one in take(alone, len(read)) for window in one]
    for begin in range(0, len(read) - len(table) + 1, len(table)):
        assert sorted(read[begin : begin + len(table)]) == list(range(len(table)))


def check_state_contract(make: Callable[[], BaseNode], steps: int, same: Callable[[Any, Any], bool]) -> None:
    """What every node promises: a state taken after n steps gives, in a fresh node, exactly what comes next."""
    for stop in range(steps):
        node = make()
        node.reset(None)
        take(node, stop)
        state = node.state_dict()
        expected = take(node, steps - stop)
        fresh = make()
        fresh.reset(state)
        assert all(same(a, b) for a, b in zip(take(fresh, steps - stop), expected, strict=True))


def test_state_contract_of_the_order() -> None:
    table = table_of([[20, 3], [9], [40, 40]], 6)
    check_state_contract(lambda: WindowOrder(table, StreamConfig(6, 4)), 9, lambda a, b: a == b)


def test_state_contract_of_the_whole_graph(dataset: Path) -> None:
    samples = read_samples(dataset, "train")
    check_state_contract(
        lambda: stream(dataset, samples, StreamConfig(100, 3, seed=2)),
        5,
        lambda a, b: a.keys == b.keys and torch.equal(a.mel, b.mel) and torch.equal(a.codes, b.codes),
    )


def test_evaluation_covers_every_frame_once_in_order(dataset: Path) -> None:
    samples = read_samples(dataset, "train")
    found: Counter[tuple[str, int]] = Counter()
    for batch in batches(stream(dataset, samples, StreamConfig(90, 4, shuffle=False))):
        assert batch.codes.shape[1] == 8 and batch.mel.shape[2] == 64
        assert torch.all(batch.mel[~batch.mask] == 0) and torch.all(batch.codes.transpose(1, 2)[~batch.mask] == 0)
        for key, start, mask in zip(batch.keys, batch.starts, batch.mask, strict=True):
            found.update((key, frame) for frame in range(start, start + int(mask.sum())))
    rows = zip(samples["key"].to_pylist(), samples["frames"].to_pylist(), strict=True)
    assert found == Counter((key, frame) for key, n in rows for frame in range(n))


def test_windows_hold_what_the_tars_hold(dataset: Path) -> None:
    tars = sorted(str(p) for p in (dataset / "train").glob("*.tar"))
    plain = {s["__key__"]: s for s in wds.WebDataset(tars, shardshuffle=False).decode()}
    batch = next(stream(dataset, read_samples(dataset, "train"), StreamConfig(64, 8)))
    for i, (key, start) in enumerate(zip(batch.keys, batch.starts, strict=True)):
        n = int(batch.mask[i].sum())
        assert np.array_equal(batch.codes[i, :, :n], plain[key]["codes.npy"][:, start : start + n])
        assert np.array_equal(batch.mel[i, :n], plain[key]["mel.npy"][start : start + n].astype(np.float32))


def test_an_empty_split_is_named(dataset: Path) -> None:
    with pytest.raises(PipelineError, match="no samples in that split"):
        stream(dataset, read_samples(dataset, "train").slice(0, 0), StreamConfig(10, 1))


@pytest.mark.parametrize("left", [None, 0, 3000])
def test_a_damaged_shard_is_one_line_that_names_it(dataset: Path, tmp_path: Path, left: int | None) -> None:
    """A shard that is missing, empty or cut off."""
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    shard = copy / "test" / "test-000000.tar"
    if left is None:
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:left])
    node = stream(copy, read_samples(copy, "test"), StreamConfig(10_000, 64, shuffle=False))
    with pytest.raises(PipelineError, match=f"{shard}") as caught:
        next(node)
    assert "\n" not in str(caught.value) and "verify" in str(caught.value)
