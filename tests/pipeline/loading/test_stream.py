"""The stream: exact resume on any number of ranks, mixtures, packing, damaged samples; state of every node."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset as wds
from hypothesis import given
from hypothesis import strategies as st
from torchdata.nodes import BaseNode, Mapper, Prefetcher

from tests.pipeline.loading.test_order import shard_sizes, table_of
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch
from whisper_gpt.pipeline.loading.stream import FetchAhead, StreamConfig, WindowOrder, batches, stream


def take(node: BaseNode, count: int) -> list[Any]:
    return [next(node) for _ in range(count)]


@given(
    st.lists(st.tuples(shard_sizes, st.floats(0.1, 1.0)), min_size=1, max_size=3),
    st.booleans(),
    st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(0, 5)), min_size=1, max_size=6),
)
def test_restarts_on_any_ranks_read_each_epoch_once(
    datasets: list[tuple[list[list[int]], float]], pack: bool, phases: list[tuple[int, int, int]]
) -> None:
    """Each phase runs some steps on some ranks with some batch size and passes its state on. Together they read one
    sequence in which the windows of each dataset come once per epoch.
    """
    tables = [table_of(shards, 7, pack) for shards, _ in datasets]
    weights = [weight for _, weight in datasets]
    read: list[tuple[int, int]] = []
    state = None
    for world_size, batch, steps in phases:
        configs = [StreamConfig(7, batch, seed=1, rank=rank, world_size=world_size) for rank in range(world_size)]
        nodes = [WindowOrder(tables, weights, config) for config in configs]
        for node in nodes:
            node.reset(state)
        for _ in range(steps):
            read += [window for node in nodes for window in next(node)]
        states = [node.state_dict() for node in nodes]
        assert all(s == states[0] for s in states)
        state = states[0]
    alone = WindowOrder(tables, weights, StreamConfig(7, 1, seed=1))
    assert read == [window for batch_windows in take(alone, len(read)) for window in batch_windows]
    for dataset, table in enumerate(tables):
        dataset_windows = [window for d, window, _ in read if d == dataset]
        for start in range(0, len(dataset_windows), len(table)):
            epoch = dataset_windows[start : start + len(table)]
            assert len(set(epoch)) == len(epoch) and set(epoch) <= set(range(len(table)))


@given(st.lists(shard_sizes, min_size=1, max_size=3), st.integers(1, 5), st.integers(1, 4))
def test_unshuffled_ranks_share_one_pass(datasets: list[list[list[int]]], batch: int, world_size: int) -> None:
    tables = [table_of(shards, 7) for shards in datasets]
    configs = [StreamConfig(7, batch, shuffle=False, rank=rank, world_size=world_size) for rank in range(world_size)]
    nodes = [WindowOrder(tables, [1.0] * len(tables), config) for config in configs]
    ranks = [[window for batch_windows in node for window in batch_windows] for node in nodes]
    expected = [(dataset, window, 0) for dataset, table in enumerate(tables) for window in range(len(table))]
    assert sorted(window for rank in ranks for window in rank) == expected


def same(a: Any, b: Any) -> bool:
    """Whether two items of a node are equal."""
    if not isinstance(a, Batch):
        return a == b
    tensors = zip((a.codes, a.mel, a.mask, a.doc_ids), (b.codes, b.mel, b.mask, b.doc_ids), strict=True)
    return (a.keys, a.starts) == (b.keys, b.starts) and all(
        x is y if x is None or y is None else torch.equal(x, y) for x, y in tensors
    )


def check_state_contract(make: Callable[[], BaseNode], steps: int) -> None:
    """A state taken after n steps makes a fresh or a used node continue exactly; it is JSON and does not grow."""
    used = make()
    sizes = set()
    for stop in range(steps):
        node = make()
        node.reset(None)
        take(node, stop)
        state = node.state_dict()
        expected = take(node, steps - stop)
        fresh = make()
        for restored in (fresh, used):
            restored.reset(json.loads(json.dumps(state)))
            assert all(same(a, b) for a, b in zip(take(restored, steps - stop), expected, strict=True))
        sizes.add(len(json.dumps(state)) - len(str(stop)))
    assert max(sizes) - min(sizes) <= 8  # digits of the position


TABLES = [table_of([[20, 3], [9], [40, 40]], 6), table_of([[5, 9]], 6)]
CONFIG = StreamConfig(6, 4)


def order() -> WindowOrder:
    return WindowOrder(TABLES, [0.7, 0.3], CONFIG)


def fetch_nothing(dataset: int, shard: int) -> None:
    assert dataset in (0, 1) and shard < len(TABLES[dataset].shard_starts) - 1


@pytest.mark.parametrize("kind", ["order", "fetch ahead", "prefetched", "stream", "packed stream", "mixture"])
def test_every_node_keeps_the_state_contract(dataset: Path, kind: str) -> None:
    makers: dict[str, Callable[[], BaseNode]] = {
        "order": order,
        "fetch ahead": lambda: FetchAhead(order(), fetch_nothing),
        "prefetched": lambda: Prefetcher(Mapper(order(), str), 2),
        "stream": lambda: stream(dataset, "train", StreamConfig(100, 3, seed=2)),
        "packed stream": lambda: stream(dataset, "train", StreamConfig(100, 3, seed=2, pack=True)),
        "mixture": lambda: stream([(dataset, 0.7), (dataset, 0.3)], "train", StreamConfig(100, 3, seed=2)),
    }
    check_state_contract(makers[kind], 6)


@pytest.mark.parametrize("pack", [True, False])
def test_unshuffled_stream_covers_every_frame_once(dataset: Path, pack: bool) -> None:
    samples = read_samples(dataset, "train")
    covered: Counter[tuple[str, int]] = Counter()
    for batch in batches(stream(dataset, "train", StreamConfig(90, 4, shuffle=False, pack=pack))):
        assert batch.codes.shape[1] == 8 and batch.mel.shape[2] == 64
        assert torch.all(batch.mel[~batch.mask] == 0) and torch.all(batch.codes.transpose(1, 2)[~batch.mask] == 0)
        assert (batch.doc_ids is not None) == pack
        for i, (keys, starts) in enumerate(zip(batch.keys, batch.starts, strict=True)):
            doc_ids = batch.doc_ids[i] if batch.doc_ids is not None else torch.zeros_like(batch.mask[i]).long()
            for piece, (key, start) in enumerate(zip(keys, starts, strict=True)):
                frames = int((batch.mask[i] & (doc_ids == piece)).sum())
                covered.update((key, frame) for frame in range(start, start + frames))
    rows = zip(samples["key"].to_pylist(), samples["frames"].to_pylist(), strict=True)
    assert covered == Counter((key, frame) for key, n in rows for frame in range(n))


@pytest.mark.parametrize("pack", [True, False])
def test_windows_match_the_tars(dataset: Path, pack: bool) -> None:
    tars = sorted(str(p) for p in (dataset / "train").glob("*.tar"))
    plain = {s["__key__"]: s for s in wds.WebDataset(tars, shardshuffle=False).decode()}
    batch = next(stream(dataset, "train", StreamConfig(700, 8, pack=pack)))
    for i, (keys, starts) in enumerate(zip(batch.keys, batch.starts, strict=True)):
        begin = 0
        for key, start in zip(keys, starts, strict=True):
            n = min(plain[key]["mel.npy"].shape[0] - start, int(batch.mask[i].sum()) - begin)
            end = begin + n
            assert np.array_equal(batch.codes[i, :, begin:end], plain[key]["codes.npy"][:, start : start + n])
            assert np.array_equal(batch.mel[i, begin:end], plain[key]["mel.npy"][start : start + n].astype(np.float32))
            begin = end
        assert begin == int(batch.mask[i].sum()) and (pack or len(keys) == 1)


def test_program_can_exit_in_the_middle_of_a_stream(dataset: Path) -> None:
    code = (
        "import sys; from whisper_gpt.pipeline.loading.stream import *; "
        "next(stream(sys.argv[1], 'train', StreamConfig(700, 64)))"
    )
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(dataset)], check=True)


def test_mixture_gives_each_dataset_its_share(dataset: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    mixed = stream([(dataset, 0.7), (other, 0.3)], "train", StreamConfig(100, 10))
    alone = stream(dataset, "train", StreamConfig(100, 1))
    first = [(batch.keys[0], batch.starts[0]) for batch in take(alone, 100)]
    taken, others = 0, []
    for batch in take(mixed, 10):
        for window in zip(batch.keys, batch.starts, strict=True):
            if window == first[taken]:  # the next window of the first dataset
                taken += 1
            else:
                others.append(window)
    assert 60 <= taken <= 80 and len(set(others)) == len(others) == 100 - taken
    assert others != first[: len(others)]  # two datasets of equal size do not share their order


def test_datasets_of_different_fingerprints_are_refused(dataset: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(dataset, tmp_path / "other"))
    info = (other / "dataset.json").read_text().replace('"window_samples": 1024', '"window_samples": 2048')
    (other / "dataset.json").write_text(info.replace('"fingerprint": "', '"fingerprint": "x'))
    with pytest.raises(PipelineError, match=r"cannot be mixed: mel.window_samples 1024 / 2048"):
        stream([(dataset, 0.5), (other, 0.5)], "train", StreamConfig(10, 1))


def test_missing_split_is_named(dataset: Path) -> None:
    with pytest.raises(ManifestError, match="no samples in the split dev"):
        stream(dataset, "dev", StreamConfig(10, 1))


@pytest.mark.parametrize("kept_bytes", [None, 0, 3000])
def test_damaged_shard_is_a_one_line_error(dataset: Path, tmp_path: Path, kept_bytes: int | None) -> None:
    """The shard is missing, empty or truncated."""
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    shard = copy / "test" / "test-000000.tar"
    if kept_bytes is None:
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:kept_bytes])
    node = stream(copy, "test", StreamConfig(10_000, 64, shuffle=False))
    with pytest.raises(PipelineError, match=f"{shard}") as caught:
        next(node)
    assert "\n" not in str(caught.value) and "verify" in str(caught.value)


@pytest.fixture
def damaged_dataset(dataset: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """A dataset with an invalid mel in two training samples, and the keys of these samples."""
    copy = Path(shutil.copytree(dataset, tmp_path / "damaged"))
    rows = read_samples(copy, "train").slice(1, 2).to_pylist()
    for row in rows:
        with (copy / "train" / f"{row['shard']}.tar").open("r+b") as tar:
            tar.seek(row["mel_offset"])
            tar.write(b"nonsense")
    return copy, [row["key"] for row in rows]


@pytest.mark.parametrize("pack", [True, False])
def test_damaged_samples_are_skipped_counted_and_logged(
    damaged_dataset: tuple[Path, list[str]], pack: bool, caplog: pytest.LogCaptureFixture
) -> None:
    copy, keys = damaged_dataset
    node = stream(copy, "train", StreamConfig(90, 4, shuffle=False, pack=pack, max_damaged=2))
    frames = sum(int(batch.mask.sum()) for batch in batches(node))
    rows = read_samples(copy, "train").to_pylist()
    assert frames == sum(row["frames"] for row in rows if row["key"] not in keys)
    assert sorted(node.damaged) == sorted(keys) and all("(mel: " in why for why in node.damaged.values())
    assert all(key in caplog.text for key in keys)


def test_out_of_range_codes_count_as_damage(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "copy"))
    row = read_samples(copy, "train").slice(2, 1).to_pylist()[0]
    with (copy / "train" / f"{row['shard']}.tar").open("r+b") as tar:
        tar.seek(row["codes_offset"] + row["codes_size"] - 2)
        tar.write(b"\xff\xff")
    node = stream(copy, "train", StreamConfig(90, 4, shuffle=False, max_damaged=1))
    assert sum(int(batch.mask.sum()) for batch in batches(node)) < sum(
        read_samples(copy, "train")["frames"].to_pylist()
    )
    assert list(node.damaged) == [row["key"]]


def test_state_of_two_ranks_resumes_on_three(dataset: Path) -> None:
    """Through the whole graph: batches of two, then three ranks are the windows of one rank."""
    read: list[tuple[Any, Any]] = []
    state = None
    for world_size, steps in ((2, 3), (3, 2)):
        nodes = [
            stream(dataset, "train", StreamConfig(60, 2, seed=3, rank=r, world_size=world_size))
            for r in range(world_size)
        ]
        for node in nodes:
            node.reset(state)
        for _ in range(steps):
            taken = [next(node) for node in nodes]
            read += [window for batch in taken for window in zip(batch.keys, batch.starts, strict=True)]
        state = nodes[0].state_dict()
    alone = take(stream(dataset, "train", StreamConfig(60, 1, seed=3)), len(read))
    assert read == [(batch.keys[0], batch.starts[0]) for batch in alone]


def test_more_damage_than_allowed_is_an_error(damaged_dataset: tuple[Path, list[str]]) -> None:
    copy, keys = damaged_dataset
    node = stream(copy, "train", StreamConfig(90, 4, shuffle=False, max_damaged=1))
    with pytest.raises(PipelineError, match=rf"{keys[1]} cannot be read .* \(and 1 damaged samples before it\)"):
        take(node, 100)


def test_a_narrow_stream_is_widened_on_the_device(dataset: Path) -> None:
    options = {"context": 64, "batch": 4, "pack": True}
    narrow = next(stream(dataset, "train", StreamConfig(**options, narrow=True)))
    wide = next(stream(dataset, "train", StreamConfig(**options)))
    assert narrow.codes.dtype == torch.int16 and narrow.mel.dtype == torch.float16
    for codebooks in (None, 1):
        widened = narrow.to(torch.device("cpu"), codebooks)
        assert widened.codes.dtype == torch.int64 and widened.mel.dtype == torch.float32
        assert torch.equal(widened.codes, wide.codes[:, :codebooks]) and torch.equal(widened.mel, wide.mel)
    with pytest.raises(PipelineError, match="only narrow batches are pinned"):
        StreamConfig(**options, pin=True)


def test_batches_are_padded_to_the_context(dataset: Path) -> None:
    short = next(stream(dataset, "train", StreamConfig(context=5_000, batch=2)))
    padded = next(stream(dataset, "train", StreamConfig(context=5_000, batch=2, pad=True)))
    frames = short.codes.shape[-1]
    assert frames < 5_000 and padded.codes.shape[-1] == padded.mel.shape[1] == padded.mask.shape[1] == 5_000
    assert torch.equal(padded.codes[..., :frames], short.codes) and not padded.codes[..., frames:].any()
    assert torch.equal(padded.mask[:, :frames], short.mask) and not padded.mask[:, frames:].any()
