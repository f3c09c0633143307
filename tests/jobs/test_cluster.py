"""Preprocessing as a submitted job on a Ray cluster that loses nodes, its driver, and a node's network for a minute."""

import contextlib
import shlex
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest
from ray.cluster_utils import Cluster
from ray.job_submission import JobStatus, JobSubmissionClient

from tests.helpers import hashes
from whisper_gpt.jobs import cli
from whisper_gpt.manifests.fragments import read_samples
from whisper_gpt.pipeline.corpora import synthetic

pytestmark = pytest.mark.slow

OPTIONS = ["--codec", "encodec_24khz_small"]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A head node with the dashboard and no cores for shards, and two nodes of one core each, or as many as asked."""
    ports = {name: free_port() for name in ("dashboard_port", "dashboard_agent_listen_port", "gcs_server_port")}
    head = {"num_cpus": 0, "include_dashboard": True, **ports}
    health_checks = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 20}  # tolerate a busy machine
    cluster = Cluster(initialize_head=True, head_node_args={**head, "_system_config": health_checks})
    for _ in range(getattr(request, "param", 2)):
        cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


def command(source: Path, corpus: str, out: Path, *options: str) -> str:
    verb = [sys.executable, "-m", "whisper_gpt.jobs.cli", "preprocess", corpus, str(source)]
    return shlex.join([*verb, "--out", str(out), *OPTIONS, *options])


def submit_and_disturb(
    cluster: Cluster, entrypoint: str, out: Path, disturbances: Sequence[tuple[float, Callable[[], bool]]]
) -> None:
    """Run the command by `ray job submit`; each disturbance comes once that share of the shards exists, and returns
    whether it ends the job, which is then submitted again. Require success."""
    job = JobSubmissionClient(f"http://{cluster.webui_url}")
    job_id, left, ended = submit(job, entrypoint), list(disturbances), False
    deadline = time.monotonic() + 600
    while (status := job.get_job_status(job_id)) != JobStatus.SUCCEEDED and time.monotonic() < deadline:
        if status.is_terminal():
            assert ended, job.get_job_logs(job_id)
            job_id, ended = submit(job, entrypoint), False
        planned = planned_shards(out)
        if left and planned and len(list((out / "manifest").glob("*.parquet"))) >= planned * left[0][0]:
            ended = left.pop(0)[1]() or ended
        time.sleep(0.1)
    assert status == JobStatus.SUCCEEDED and not left, job.get_job_logs(job_id)


def lose_a_node(cluster: Cluster) -> bool:
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    return False


def kill_the_driver(out: Path) -> bool:
    for process in psutil.process_iter(["cmdline"]):
        arguments = process.info["cmdline"] or []
        if str(out) in arguments and "preprocess" in arguments:
            process.kill()
    return True


def freeze_a_node(cluster: Cluster, seconds: float) -> bool:
    """Stop all processes of a node for a while, as if its network were gone."""
    raylet = psutil.Process(next(iter(cluster.worker_nodes)).all_processes["raylet"][0].process.pid)
    processes = [raylet, *raylet.children(recursive=True)]
    for process in processes:
        process.suspend()
    time.sleep(seconds)
    for process in processes:
        process.resume()
    return False


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
    entrypoint = command(synthetic_corpora, "synthetic", out, "--shard-mb=0.4", "--segment-s=5", "--workers=2")
    submit_and_disturb(cluster, entrypoint, out, [(0.5, lambda: lose_a_node(cluster))])
    assert hashes(out) == hashes(dataset)


@pytest.mark.parametrize("cluster", [4], indirect=True)
def test_four_nodes_survive_every_kind_of_loss(cluster: Cluster, tmp_path: Path) -> None:
    source, out, alone = tmp_path / "source", tmp_path / "out", tmp_path / "alone"
    synthetic.write(source, synthetic.SyntheticSize(utterances=200, pieces=20))
    entrypoint = command(source, "synthetic", out, "--shard-mb=0.4", "--workers=4")
    disturbances = [
        (0.1, lambda: kill_the_driver(out)),
        (0.3, lambda: lose_a_node(cluster)),
        (0.5, lambda: freeze_a_node(cluster, 60)),
    ]
    submit_and_disturb(cluster, entrypoint, out, disturbances)
    arguments = ["preprocess", "synthetic", str(source), "--out", str(alone), *OPTIONS]
    assert cli.main([*arguments, "--shard-mb=0.4", "--workers=0"]) == 0
    assert hashes(out) == hashes(alone)


def test_submitted_job_on_real_speech_survives_node_loss(cluster: Cluster, real_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    entrypoint = command(real_data / "LibriSpeech", "librispeech", out, "--shard-mb=1", "--workers=2")
    submit_and_disturb(cluster, entrypoint, out, [(0.5, lambda: lose_a_node(cluster))])
    assert cli.main(["verify", str(out)]) == 0
    flac = list((real_data / "LibriSpeech").rglob("*.flac"))
    assert len(set(read_samples(out)["source"].to_pylist())) == len(flac)
