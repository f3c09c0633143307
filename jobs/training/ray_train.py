"""Training with several workers under Ray Train: DDP; if a worker dies, the steps since the last checkpoint are lost.

The workers communicate through `Ranks` only. In the run's folder, which all machines share, they find the checkpoint to
resume from and the request to stop, and rank 0 writes its log there.
"""

import contextlib
import os
import shutil
import threading
from dataclasses import replace
from typing import Any

import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, get_device
from rich.console import Console
from upath import UPath

from whisper_gpt.jobs.common.errors import USERS_ERRORS, JobError
from whisper_gpt.jobs.common.progress import share_done, status_console
from whisper_gpt.jobs.common.ray_cluster import cluster, refuse_dead_address
from whisper_gpt.jobs.common.signals import stop_signals
from whisper_gpt.jobs.inference.run_folder import newest_checkpoint, read_state
from whisper_gpt.jobs.training.config import Config
from whisper_gpt.jobs.training.distributed import Ranks
from whisper_gpt.jobs.training.rank import train_rank
from whisper_gpt.manifests.full_disk import naming_full_disk
from whisper_gpt.manifests.location import location

_STOP_FILE = ".stop"
_FAILED_FILE = ".failed"
_LOG_FILE = "train.log"
_RAY_FOLDER = ".ray"
_MAX_FAILURES = 10  # worker failures before a run is given up
_POLL_S = 0.2


def train_on_cluster(config: Config, console: Console) -> bool:
    """Train with `config.workers` workers; return True if the run is done, False if a signal stopped it.

    Raises `JobError` if the workers fail, after some retries.
    """
    refuse_dead_address(config.ray_address)
    config = _absolute(config)
    out = config.out
    stop, failed = out / _STOP_FILE, out / _FAILED_FILE
    stop.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    log = (out / _LOG_FILE).open("a+", encoding="utf-8")
    log.seek(0, os.SEEK_END)
    outcomes: list[Exception | None] = []
    with log, cluster(config.ray_address, config.workers), stop_signals() as stopped:
        # In a thread: in the main thread Ray Train handles SIGINT itself, by aborting the run.
        thread = threading.Thread(target=lambda: outcomes.append(_fit(config)), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_POLL_S)
            if text := log.read():
                console.print(text, end="")
            if stopped() and not stop.exists():
                console.print("stopping: the workers are writing a checkpoint")
                stop.touch()
    stop.unlink(missing_ok=True)
    shutil.rmtree(out / _RAY_FOLDER, ignore_errors=True)
    if failed.exists():
        message = failed.read_text(encoding="utf-8")
        failed.unlink()
        raise JobError(message)
    if outcomes[0] is not None:
        raise outcomes[0]
    state = read_state(newest_checkpoint(out))
    return share_done(state.step, config.steps, state.elapsed_s, config.minutes) >= 1


def _absolute(config: Config) -> Config:
    """Make all paths absolute: Ray Train's workers run in another folder."""
    weights, cache = config.codec_weights, config.cache
    return replace(
        config,
        out=config.out.absolute(),
        datasets=tuple(UPath(location(dataset)) for dataset in config.datasets),
        codec_weights=weights and weights.absolute(),
        cache=cache and cache.absolute(),
    )


def _fit(config: Config) -> Exception | None:
    """Run the workers until they end; return the error, in the words of the worker that failed, or None."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    gpu = config.device == "cuda" or (config.device == "auto" and gpus > 0)
    kind, available = ("GPUs", gpus) if gpu else ("cores", int(resources.get("CPU", 0)))
    if available < config.workers:  # Ray would wait for more forever
        return JobError(f"--workers {config.workers}: Ray has {available} {kind}, and each worker takes one")
    try:
        TorchTrainer(
            _train_one_rank,
            train_loop_config={"config": config},
            scaling_config=ScalingConfig(num_workers=config.workers, use_gpu=gpu),
            run_config=RunConfig(
                name="train",
                storage_path=str(config.out / _RAY_FOLDER),
                failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            ),
        ).fit()
    except Exception as error:
        failures = getattr(error, "worker_failures", {})
        return JobError(f"training failed: {next(iter(failures.values()), error)}")
    return None


def _train_one_rank(loop_config: dict[str, Any]) -> None:
    """Run one worker. A user error is passed to the driver in a file, which also ends all workers: when Ray restarts
    them, they find it there."""
    config: Config = loop_config["config"]
    context = ray.train.get_context()
    failed = config.out / _FAILED_FILE
    if failed.exists():
        return
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), get_device())
    stop_requested = contextlib.nullcontext((config.out / _STOP_FILE).exists)
    try:
        path = config.out / _LOG_FILE
        with naming_full_disk(path), path.open("a", buffering=1, encoding="utf-8") as log:
            train_rank(config, ranks, status_console(log), stop_requested)
    except USERS_ERRORS as error:
        failed.write_text(str(error), encoding="utf-8")
        raise
