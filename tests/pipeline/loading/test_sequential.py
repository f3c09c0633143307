"""Streaming tars without a manifest: every frame once, the same windows as our own stream, from any source."""

import io
import shutil
import tarfile
import threading
from collections.abc import Iterable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.loading.batch import Batch
from whisper_gpt.pipeline.loading.sequential import SequentialConfig, sequential_stream
from whisper_gpt.pipeline.loading.stream import StreamConfig, batches, stream
from whisper_gpt.pipeline.shards.sample import npy_bytes

CONFIG = SequentialConfig(context=250, batch=7)

Windows = dict[tuple[str, int], tuple[torch.Tensor, torch.Tensor]]


def windows(taken_batches: Iterable[Batch]) -> Windows:
    """The windows without padding by sample key and first frame; assert that none comes twice."""
    by_start: Windows = {}
    for batch in taken_batches:
        assert batch.codes.dtype == torch.int64 and batch.mel.dtype == torch.float32 and batch.mask.dtype == torch.bool
        for i, ((key,), (start,)) in enumerate(zip(batch.keys, batch.starts, strict=True)):
            frames = int(batch.mask[i].sum())
            assert (key, start) not in by_start
            assert not batch.codes[i, :, frames:].any() and not batch.mel[i, frames:].any()
            by_start[key, start] = batch.codes[i, :, :frames], batch.mel[i, :frames]
    return by_start


def same(a: Windows, b: Windows) -> bool:
    return a.keys() == b.keys() and all(torch.equal(x, y) for key in a for x, y in zip(a[key], b[key], strict=True))


def tars_of(dataset: Path) -> list[str]:
    return sorted(str(tar) for tar in (dataset / "train").glob("*.tar"))


@pytest.fixture(scope="module")
def expected_windows(dataset: Path) -> Windows:
    return windows(batches(stream(dataset, "train", StreamConfig(CONFIG.context, CONFIG.batch, shuffle=False))))


@pytest.fixture
def tar_url(dataset: Path) -> Iterator[str]:
    """The URL of a local server with the training tars."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(dataset / "train"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_local_tars_and_brace_patterns(dataset: Path, expected_windows: Windows) -> None:
    tars = tars_of(dataset)
    assert len(tars) > 1
    taken = list(sequential_stream(tars, CONFIG))
    assert same(windows(taken), expected_windows)
    assert [key for batch in taken for key in batch.keys] == [
        (key,) for key, _ in expected_windows
    ]  # in the order of the tars
    pattern = f"{dataset}/train/train-{{{','.join(Path(tar).stem.removeprefix('train-') for tar in tars)}}}.tar"
    assert same(windows(sequential_stream(pattern, CONFIG)), expected_windows)


def test_pipe_commands_and_http_servers(dataset: Path, expected_windows: Windows, tar_url: str) -> None:
    assert same(windows(sequential_stream([f"pipe:cat '{tar}'" for tar in tars_of(dataset)], CONFIG)), expected_windows)
    if shutil.which("curl") is None:
        pytest.skip("webdataset opens http:// with curl, which is not installed")
    assert same(
        windows(sequential_stream([f"{tar_url}/{Path(tar).name}" for tar in tars_of(dataset)], CONFIG)),
        expected_windows,
    )


def test_shuffle_buffer_depends_on_the_seed(dataset: Path, expected_windows: Windows) -> None:
    orders = []
    for seed in (0, 0, 1):
        config = SequentialConfig(250, 7, shuffle=20, seed=seed)
        shuffled = windows(sequential_stream(tars_of(dataset), config))
        assert same(shuffled, expected_windows)
        orders.append(list(shuffled))
    assert orders[0] == orders[1] != orders[2] and orders[0] != list(expected_windows)


@pytest.mark.parametrize("shuffle", [0, 20])
def test_ranks_share_the_tars(dataset: Path, expected_windows: Windows, shuffle: int) -> None:
    tars = tars_of(dataset)
    ranks = [
        windows(sequential_stream(tars, SequentialConfig(250, 7, shuffle, rank=rank, world_size=2)))
        for rank in range(2)
    ]
    assert not ranks[0].keys() & ranks[1].keys() and same(ranks[0] | ranks[1], expected_windows)
    with pytest.raises(PipelineError, match=f"{len(tars)} tars for 99 ranks: rank 98 has none"):
        sequential_stream(tars, SequentialConfig(250, 7, rank=98, world_size=99))


def write_tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


CODES, MEL = np.ones((2, 5), np.int64), np.ones((5, 3), np.float32)


@pytest.mark.parametrize(
    ("codes", "mel", "why"),
    [
        (None, npy_bytes(MEL), "it has no codes.npy"),
        (npy_bytes(CODES), None, "it has no mel.npy"),
        (npy_bytes(CODES), b"nonsense", "not a .npy member"),
        (npy_bytes(CODES), npy_bytes(MEL)[:-1], "buffer is smaller"),
        (npy_bytes(CODES), npy_bytes(MEL[:-1]), r"codes \(2, 5\) and mel \(4, 3\)"),
        (npy_bytes(MEL.T), npy_bytes(MEL), "codes of float32"),
        (npy_bytes(CODES[:1]), npy_bytes(MEL), "in the samples before it"),
    ],
)
def test_damaged_sample_is_skipped_and_counted(
    codes: bytes | None, mel: bytes | None, why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    intact = {"codes.npy": npy_bytes(CODES), "mel.npy": npy_bytes(MEL)}
    damaged = {name: data for name, data in (("codes.npy", codes), ("mel.npy", mel)) if data is not None}
    samples = {"a": intact, "b": damaged | {"txt": b"words"}, "c": intact}
    members = {f"{key}.{name}": data for key, sample in samples.items() for name, data in sample.items()}
    tar = write_tar(tmp_path / "samples.tar", members)
    with pytest.raises(PipelineError, match=rf"samples\.tar: b cannot be read \(.*{why}"):
        list(sequential_stream(tar, SequentialConfig(4, 8)))
    read = windows(sequential_stream(tar, SequentialConfig(4, 8, max_damaged=1)))
    assert list(read) == [("a", 0), ("a", 4), ("c", 0), ("c", 4)] and "b cannot be read" in caplog.text


def test_pickled_objects_are_refused(tmp_path: Path) -> None:
    pickled = io.BytesIO()
    np.save(pickled, np.array([[print]], dtype=object), allow_pickle=True)
    tar = write_tar(tmp_path / "samples.tar", {"a.codes.npy": pickled.getvalue(), "a.mel.npy": npy_bytes(MEL)})
    with pytest.raises(PipelineError, match="not a plain C-ordered array: object"):
        list(sequential_stream(tar, CONFIG))


@pytest.mark.parametrize(
    "url", ["{folder}/absent.tar", "{folder}/cut.tar", "pipe:cat {folder}/absent.tar", "pipe:{cut}"]
)
def test_unreadable_tar_is_a_one_line_error(dataset: Path, tmp_path: Path, url: str) -> None:
    whole = Path(tars_of(dataset)[0])
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[:3000])
    url = url.format(folder=tmp_path, cut=f"cat '{whole}' && exit 3")  # like a download that fails at its very end
    with pytest.raises(PipelineError, match="cannot be read") as caught:
        list(sequential_stream(url, CONFIG))
    assert str(caught.value).startswith(url) and "\n" not in str(caught.value)
