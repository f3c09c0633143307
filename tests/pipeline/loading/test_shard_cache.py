"""The cache of remote shards: each is fetched once for all processes, checked and bounded; streams read through it."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from upath import UPath

from whisper_gpt.manifests.location import location
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.shard_cache import ShardCache
from whisper_gpt.pipeline.loading.stream import StreamConfig, batches, stream


class CountingShard:
    """Fake shard that counts how often it is opened and returns wrong bytes the first `wrong` times."""

    def __init__(self, folder: Path, content: bytes, wrong: int = 0):
        self._good, self._bad, self._wrong = folder / "good", folder / "bad", wrong
        self._good.write_bytes(content)
        self._bad.write_bytes(content[:-1] + b"?")
        self.times = 0

    def open(self, mode: str) -> BinaryIO:
        self.times += 1
        return (self._bad if self.times <= self._wrong else self._good).open("rb")

    def __str__(self) -> str:
        return "s3://bucket/train/train-000000.tar"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_shard_is_fetched_once(tmp_path: Path) -> None:
    shard: Any = CountingShard(tmp_path, b"some bytes")
    cache = ShardCache(tmp_path / "cache", 1000)
    assert bytes(cache.map(shard, sha256(b"some bytes"))) == b"some bytes"
    assert bytes(ShardCache(tmp_path / "cache", 1000).map(shard, sha256(b"some bytes"))) == b"some bytes"
    cache.fetch(shard, sha256(b"some bytes"))
    assert shard.times == 1 and files(tmp_path / "cache") == [f"{sha256(b'some bytes')}.tar"]


@pytest.mark.parametrize("wrong", [1, 2])
def test_wrong_hash_is_retried_once(tmp_path: Path, wrong: int) -> None:
    shard: Any = CountingShard(tmp_path, b"some bytes", wrong)
    cache = ShardCache(tmp_path / "cache", 1000)
    if wrong == 1:
        assert bytes(cache.map(shard, sha256(b"some bytes"))) == b"some bytes"
    else:
        with pytest.raises(PipelineError, match=r"s3://bucket/train/train-000000\.tar"):
            cache.map(shard, sha256(b"some bytes"))
        assert files(tmp_path / "cache") == []
    assert shard.times == 2


def test_least_recently_used_shards_are_evicted(tmp_path: Path) -> None:
    cache, contents = ShardCache(tmp_path / "cache", 250), [bytes([i]) * 100 for i in range(4)]
    mapped = []
    for i, content in enumerate(contents):
        (tmp_path / str(i)).mkdir()
        shard: Any = CountingShard(tmp_path / str(i), content)
        mapped.append(cache.map(shard, sha256(content)))
        os.utime(tmp_path / "cache" / f"{sha256(content)}.tar", (i, i))  # explicit access times
    assert files(tmp_path / "cache") == sorted(f"{sha256(content)}.tar" for content in contents[2:])
    assert [bytes(view) for view in mapped] == contents


SLOW = """
import hashlib, sys, time
from pathlib import Path
from whisper_gpt.pipeline.loading.shard_cache import ShardCache

folder = Path(sys.argv[1])

class Slow:
    def open(self, mode):
        with (folder / "opened").open("a") as note:
            note.write("x")
        time.sleep(0.5)
        return (folder / "shard").open(mode)

content = (folder / "shard").read_bytes()
mapped = ShardCache(folder / "cache", 1000).map(Slow(), hashlib.sha256(content).hexdigest())
assert bytes(mapped) == content
"""


def test_two_processes_fetch_a_shard_once(tmp_path: Path) -> None:
    (tmp_path / "shard").write_bytes(b"slow bytes")
    processes = [subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path)]) for _ in range(2)]
    assert [process.wait(600) for process in processes] == [0, 0]
    assert (tmp_path / "opened").read_text() == "x"


@pytest.fixture
def remote_dataset(store: Any, dataset: Path) -> Iterator[UPath]:
    """A copy of the dataset in an object store."""
    remote = store.bucket() / "dataset"
    for path in sorted(dataset.rglob("*")):
        if path.is_file():
            (remote / path.relative_to(dataset).as_posix()).write_bytes(path.read_bytes())
    yield location(remote)


@pytest.mark.parametrize("shuffle", [True, False])
def test_stream_from_a_store_equals_one_from_a_folder(
    remote_dataset: UPath, dataset: Path, tmp_path: Path, shuffle: bool
) -> None:
    local, remote = (
        stream(place, "train", StreamConfig(100, 4, shuffle=shuffle, cache_folder=tmp_path / "cache"))
        for place in (dataset, remote_dataset)
    )
    for _, expected, actual in zip(range(6), batches(local), batches(remote), strict=False):
        assert expected.keys == actual.keys and expected.mel.equal(actual.mel) and expected.codes.equal(actual.codes)
    assert any(name.endswith(".tar") for name in files(tmp_path / "cache"))


def test_shard_that_does_not_match_its_manifest_is_named(remote_dataset: UPath, dataset: Path, tmp_path: Path) -> None:
    for shard in (remote_dataset / "test").iterdir():
        content = bytearray(shard.read_bytes())
        content[-1] ^= 1
        shard.write_bytes(bytes(content))
    config = StreamConfig(100, 4, shuffle=False, cache_folder=tmp_path / "cache", max_damaged=100)
    with pytest.raises(PipelineError, match=r"s3://.*test-000000\.tar: .*sha256"):
        next(stream(remote_dataset, "test", config))
