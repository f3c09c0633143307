"""Preprocessing as a submitted job on a Ray cluster of two nodes, one of which is lost."""

import contextlib
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.helpers import hashes
from whisper_gpt.jobs import cli
from whisper_gpt.manifests.fragments import read_samples

pytestmark = pytest.mark.slow

OPTIONS = ["--codec", "encodec_24khz_small"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head node with the dashboard and no cores for shards, and two nodes of one core each."""
    ports = {name: free_port() for name in ("dashboard_port", "dashboard_agent_listen_port", "gcs_server_port")}
    head = {"num_cpus": 0, "include_dashboard": True, **ports}
    health_checks = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}  # tolerate a busy machine
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": health_checks})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def submit_and_lose_a_node(cluster: Cluster, source: Path, corpus: str, out: Path, *options: str) -> None:
    """Run the command by `ray job submit`, remove a node once half of the shards exist, and require success."""
    command = [
        sys.executable,
        "-m",
        "whisper_gpt.jobs.cli",
        "preprocess",
        corpus,
        str(source),
        "--out",
        str(out),
        *OPTIONS,
    ]
    job = JobSubmissionClient(f"http://{cluster.webui_url}")
    job_id, lost = submit(job, shlex.join([*command, *options])), False
    deadline = time.monotonic() + 600
    while not (status := job.get_job_status(job_id)).is_terminal() and time.monotonic() < deadline:
        planned = planned_shards(out)
        if not lost and planned and len(list((out / "manifest").glob("*.parquet"))) >= planned // 2:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
            lost = True
        time.sleep(0.1)
    logs = job.get_job_logs(job_id)
    assert status == JobStatus.SUCCEEDED and lost, logs


def submit(job: JobSubmissionClient, command: str) -> str:
    """Submit the job as `ray job submit` does, retrying until the new cluster accepts jobs."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with contextlib.suppress(RuntimeError):  # the agent is not up yet
            return job.submit_job(entrypoint=command)
        time.sleep(0.5)
    raise AssertionError("the cluster takes no jobs")


def planned_shards(out: Path) -> int:
    """Return the number of planned shards; 0 if there is no plan yet."""
    from whisper_gpt.jobs.preprocessing.planning import read_parts, shard_tasks

    return len(shard_tasks(read_parts(out))) if (out / "manifest").is_dir() else 0


def test_submitted_job_survives_the_loss_of_a_node(
    ray_cluster: None, cluster: Cluster, synthetic_corpora: Path, dataset: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ["--shard-mb=0.4", "--segment-s=5", "--workers=2"]
    submit_and_lose_a_node(cluster, synthetic_corpora, "synthetic", out, *options)
    assert hashes(out) == hashes(dataset)


def test_submitted_job_on_real_speech_survives_node_loss(cluster: Cluster, real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    submit_and_lose_a_node(cluster, real_data / "LibriSpeech", "librispeech", out, "--shard-mb=1", "--workers=2")
    assert cli.main(["verify", str(out)]) == 0
    flac = list((real_data / "LibriSpeech").rglob("*.flac"))
    assert len(set(read_samples(out)["source"].to_pylist())) == len(flac)
