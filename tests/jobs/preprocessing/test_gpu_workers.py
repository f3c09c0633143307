"""How many workers a cluster has room for, on cores and on shared GPUs."""

import pytest
import ray

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.ray_cluster import worker_slots


def test_workers_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 32.0, "GPU": 2.0})
    assert worker_slots("cpu", 4) == 32
    assert worker_slots("cuda", 1) == 2 and worker_slots("cuda", 4) == 8
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 32.0})
    with pytest.raises(JobError, match="finds no GPU"):
        worker_slots("cuda", 4)


def test_fewer_than_one_worker_per_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["preprocess", "synthetic", "--out", "x", "--workers-per-gpu", "0"]) == 2
    assert "--workers-per-gpu 0: must be at least 1" in capsys.readouterr().err
