"""`bench gpu` saves each figure as it comes, keeps its time limit, and says what it did not get to."""

import json
from pathlib import Path

import pytest
import torch

from whisper_gpt.jobs.benchmarks import gpu, gpu_probe
from whisper_gpt.jobs.benchmarks.gpu import Config, Report


def figures(capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["what"]: row["value"] for row in rows}


@pytest.mark.parametrize("item", ["encode", "decode", "generate", "load"])
def test_each_item_reports_figures(item: str, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu_probe.main(item, "cpu", "0.002", str(dataset))
    measured = figures(capsys)
    assert measured and all(value > 0 for value in measured.values())
    if item == "encode":
        assert measured["codes that are the CPU's"] == 1


def test_training_is_measured_beside_a_plain_loop(
    dataset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_probe, "MODELS", {"gpt-4m": gpu_probe.MODELS["gpt-4m"]})
    gpu_probe.main("train", "cpu", "0.01", str(dataset))
    measured = figures(capsys)
    assert measured["plain loop of gpt-4m, fp32"] > 0 and measured["gpt-4m, fp32"] > 0
    assert 0 <= measured["gpt-4m, waiting for data"] < 1


def test_what_there_is_no_time_for_is_said_and_the_rest_is_kept(tmp_path: Path, dataset: Path) -> None:
    assert gpu.run(Config(tmp_path, minutes=0.5, size=0.002, dataset=dataset, device="cpu")) == 1
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert report["items"].keys() == gpu_probe.ITEMS.keys()
    assert "not begun: no time left" in report["items"].values()
    text = (tmp_path / "gpu.md").read_text()
    assert torch.__version__ in text and "- load: not begun: no time left" in text


def test_an_item_that_fails_is_one_line(tmp_path: Path) -> None:
    report = Report("a machine")
    rows = list(gpu._measure("load", torch.device("cpu"), 0.01, tmp_path / "no dataset", 60, report))
    assert rows == [] and report.items["load"].startswith("failed: ") and "no dataset" in report.items["load"]
