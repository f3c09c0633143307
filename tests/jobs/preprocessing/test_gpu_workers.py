"""How many workers a cluster has room for, on cores and on shared GPUs."""

from pathlib import Path

import pytest
import ray

from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.event_log import run_log
from whisper_gpt.jobs.common.ray_cluster import worker_slots
from whisper_gpt.jobs.preprocessing import ray_workers
from whisper_gpt.jobs.preprocessing.shard_queue import ShardQueue
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.shards.task import ShardJob, WorkerSetup


def test_workers_share_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 32.0, "GPU": 2.0})
    assert worker_slots("cpu", 4) == 32
    assert worker_slots("cuda", 1) == 2 and worker_slots("cuda", 4) == 8
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 32.0})
    with pytest.raises(JobError, match="finds no GPU"):
        worker_slots("cuda", 4)


def test_each_worker_takes_its_share_of_a_gpu(
    tmp_path: Path, log_mel: LogMel, codec: Codec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Placed(Exception):
        pass

    def options(num_gpus: float) -> None:
        raise Placed(num_gpus)

    monkeypatch.setattr(ray_workers.WorkerActor, "options", options)
    job = ShardJob(tmp_path, tmp_path / "out", "f", 100)
    for device, share in ("cuda", 0.25), ("cpu", 0):
        setup = WorkerSetup(job, codec.fingerprint, None, log_mel.config, device)
        queue = ShardQueue([], lambda task: [], print)
        with pytest.raises(Placed) as placed:
            next(ray_workers.make_shards(queue, setup, 4, run_log(tmp_path), lambda: False, 1 / 4))
        assert placed.value.args == (share,)


@pytest.mark.parametrize("options", [["--workers", "0", "--device", "cuda"], ["--device", "cpu"]])
def test_sharing_a_gpu_needs_a_gpu_and_ray(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["preprocess", "synthetic", "--out", "x", "--workers-per-gpu", "2", *options]) == 2
    assert "--workers-per-gpu: is for --device cuda and workers of Ray" in capsys.readouterr().err


def test_fewer_than_one_worker_per_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["preprocess", "synthetic", "--out", "x", "--workers-per-gpu", "0"]) == 2
    assert "--workers-per-gpu 0: must be at least 1" in capsys.readouterr().err
