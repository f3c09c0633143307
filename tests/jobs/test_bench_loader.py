"""`bench loader`: every rival hands over what our stream does, and the verb says who was not there."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.benchmarks.loader_rivals import BATCH, CONTEXT, RIVALS, Tensors
from whisper_gpt.jobs.benchmarks.loader_speed import OURS, shards
from whisper_gpt.jobs.benchmarks.restore_speed import restore_speed
from whisper_gpt.pipeline.loading.stream import StreamConfig, batches, stream

pytestmark = pytest.mark.slow


def windows(taken: Iterable[Tensors]) -> Counter[str]:
    """The windows by a hash of what they hold; asserts that each batch is of the types it should be."""
    found: Counter[str] = Counter()
    for codes, mel, mask in taken:
        assert (codes.dtype, mel.dtype, mask.dtype) == (torch.int64, torch.float32, torch.bool)
        assert codes.shape[0] <= BATCH and codes.shape[2] <= CONTEXT and mel.shape[:2] == mask.shape
        for i, frames in enumerate(mask.sum(dim=1).tolist()):
            assert mask[i, :frames].all() and not codes[i, :, frames:].any() and not mel[i, frames:].any()
            held = codes[i, :, :frames].numpy().tobytes() + mel[i, :frames].numpy().tobytes()
            found[hashlib.sha256(held).hexdigest()] += 1
    return found


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", RIVALS)
def test_rivals_yield_every_window_once_per_epoch(
    name: str, workers: int, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = RIVALS[name]
    if not rival.installed():
        pytest.skip(f"{name} is not installed (whisper-gpt[bench] has those that can be together)")
    monkeypatch.setattr(
        "whisper_gpt.jobs.benchmarks.loader_rivals.CONTEXT", 250
    )  # windows that are cut, of samples of 5 s
    node = stream(dataset, "train", StreamConfig(250, BATCH, shuffle=False))
    expected = windows((batch.codes, batch.mel, batch.mask) for batch in batches(node))
    tars, _ = shards(dataset, "train")
    source = rival.prepare(tars, tmp_path)
    assert windows(rival.batches(source, workers, 1)) == expected
    assert expected.total() > BATCH


def test_bench_lists_missing_rivals(
    dataset: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in RIVALS.keys() - {"webdataset"}:
        monkeypatch.delitem(RIVALS, name)
    monkeypatch.setitem(RIVALS, "nobody's", replace(RIVALS["webdataset"], module="nobodys_loader"))
    monkeypatch.setattr(
        "whisper_gpt.jobs.benchmarks.loader_speed.restore_speed", lambda *_, **__: restore_speed(750, 16, 1)
    )
    assert cli.main(["bench", "loader", str(dataset), "--rounds=1", "--seconds=0.2", "--json"]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["absent"] == {"nobody's": "not installed"}
    for column in ("in_process", "two_processes"):
        assert result[column].keys() == {OURS, "webdataset"}
        assert all(timing["median"] > 0 for timing in result[column].values())
    assert 0 < result["restore"]["restore_ms"]["median"] < 1000
