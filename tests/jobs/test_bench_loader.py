"""`bench loader`: every rival yields the same windows as our stream, and missing rivals are reported."""

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


def windows(tensor_batches: Iterable[Tensors]) -> Counter[str]:
    """Count windows by a hash of their contents; assert the dtypes and shapes of each batch."""
    counts: Counter[str] = Counter()
    for codes, mel, mask in tensor_batches:
        assert (codes.dtype, mel.dtype, mask.dtype) == (torch.int64, torch.float32, torch.bool)
        assert codes.shape[0] <= BATCH and codes.shape[2] <= CONTEXT and mel.shape[:2] == mask.shape
        for i, frames in enumerate(mask.sum(dim=1).tolist()):
            assert mask[i, :frames].all() and not codes[i, :, frames:].any() and not mel[i, frames:].any()
            content = codes[i, :, :frames].numpy().tobytes() + mel[i, :frames].numpy().tobytes()
            counts[hashlib.sha256(content).hexdigest()] += 1
    return counts


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", RIVALS)
def test_each_rival_yields_every_window_once_per_epoch(
    name: str, workers: int, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rival = RIVALS[name]
    if not rival.installed():
        pytest.skip(f"{name} is not installed (whisper-gpt[bench] has those that can be together)")
    monkeypatch.setattr(
        "whisper_gpt.jobs.benchmarks.loader_rivals.CONTEXT", 250
    )  # shorter than the samples of 5 s, so windows get cut
    node = stream(dataset, "train", StreamConfig(250, BATCH, shuffle=False))
    expected = windows((batch.codes, batch.mel, batch.mask) for batch in batches(node))
    tars, _ = shards(dataset, "train")
    source = rival.prepare(tars, tmp_path)
    assert windows(rival.batches(source, workers, 1)) == expected
    assert expected.total() > BATCH


def test_bench_measures_ours_and_reports_missing_rivals(
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
