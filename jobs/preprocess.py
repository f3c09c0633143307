"""Turn a corpus into shards of aligned mel frames and codec tokens, with manifests; a rerun resumes."""

import contextlib
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from rich.console import Console

from whisper_gpt.jobs.common.config_files import save_config
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.event_log import LOGS_FOLDER, run_log
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import audio_progress, status_console
from whisper_gpt.jobs.common.ray_cluster import cluster, refuse_dead_address
from whisper_gpt.jobs.common.signals import stop_signals
from whisper_gpt.jobs.preprocessing import local_worker, ray_workers
from whisper_gpt.jobs.preprocessing.options import (
    DatasetOptions,
    begin_settings,
    check,
    source_root,
    survey,
    worker_setup,
)
from whisper_gpt.jobs.preprocessing.planning import (
    publish_absent,
    refuse_foreign_folder,
    settle_plan,
    shard_tasks,
    source_paths,
)
from whisper_gpt.jobs.preprocessing.scanning import examine_all
from whisper_gpt.jobs.preprocessing.shard_queue import ShardQueue
from whisper_gpt.manifests.dataset_info import FILE_NAME, DatasetInfo, info_bytes
from whisper_gpt.manifests.describe import describe
from whisper_gpt.manifests.fragments import committed_shards, listed_shards
from whisper_gpt.manifests.index import publish_indexes
from whisper_gpt.manifests.location import Location, is_file, location
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.manifests.scratch import remove_stale_scratch, scratch_folder
from whisper_gpt.pipeline.shards.plan import PlanSettings

EXIT_TOO_MANY_FAILED = 3


@dataclass(frozen=True)
class Config(DatasetOptions):
    """Options of `whisper-gpt preprocess`."""

    ray_address: str | None = None
    """Address of a Ray cluster, as HOST:PORT or auto; by default $RAY_ADDRESS, else Ray is started on this machine."""
    workers_per_gpu: int = 1
    """With --device cuda, number of workers that share a GPU, each with a core of its own: while one decodes and
    resamples, the others encode."""
    max_failed: float = 0.01
    """Largest share of the planned seconds that may fail; above it the exit code is 3."""


def run(config: Config) -> int:
    """Scan, plan, make the missing shards, describe the dataset; return exit code 0 or 3."""
    check(config)
    require(0 <= config.max_failed <= 1, f"--max-failed {config.max_failed}: must be a share, 0 to 1")
    require(config.workers_per_gpu >= 1, f"--workers-per-gpu {config.workers_per_gpu}: must be at least 1")
    shared = config.workers_per_gpu == 1 or (config.device == "cuda" and config.workers != 0)
    require(shared, "--workers-per-gpu: is for --device cuda and workers of Ray")
    console, dataset = status_console(), location(config.out)
    refuse_dead_address(config.ray_address)
    refuse_foreign_folder(dataset)
    remove_stale_scratch()
    root, wait_for_settings = source_root(config), begin_settings(config)
    with contextlib.ExitStack() as stack:
        corpus = survey(config, root, stack.enter_context(scratch_folder()), console)
        ray = None
        if config.workers != 0:
            ray = cluster(config.ray_address, config.workers, config.device, config.workers_per_gpu)
        # Start Ray while the codec's fingerprint is computed, unless the dataset is finished and hardly needs it.
        workers = stack.enter_context(ray) if ray and not is_file(dataset / FILE_NAME) else None
        settings = wait_for_settings()
        require_held = stack.enter_context(output_lock(dataset))
        log = run_log(dataset)
        examine = partial(examine_all, root)
        parts = settle_plan(dataset, corpus, examine, settings, config.extend, config.retry_failed)
        publish_absent(dataset, corpus.absent)
        save_config(config, dataset / LOGS_FOLDER / "preprocess.yaml")
        setup, absent = worker_setup(config, root, settings), len(corpus.absent)
        hashes = [part.sha256 for part in parts]
        all_tasks, tasks = shard_tasks(parts), shard_tasks(parts, committed_shards(dataset, hashes))
        total_s, to_do_s = (sum(task.seconds for task in group) for group in (all_tasks, tasks))
        with audio_progress(console, total_s) as advance:
            advance(total_s - to_do_s, resumed=True)
            if tasks:
                queue = ShardQueue(tasks, partial(source_paths, setup.job), console.print)
                if ray and workers is None:
                    workers = stack.enter_context(ray)
                with stop_signals() as stopped, contextlib.ExitStack() as inner:
                    if workers is None:
                        shards = local_worker.make_shards(queue, setup, log, stopped)
                    else:
                        shards = ray_workers.make_shards(
                            queue, setup, workers, log, stopped, 1 / config.workers_per_gpu
                        )
                    finished_s = inner.enter_context(contextlib.closing(shards))
                    for seconds in finished_s:
                        require_held()
                        advance(seconds)
        if missing := {task.shard for task in all_tasks} - listed_shards(dataset):
            raise JobError(f"{dataset}: {len(missing)} shards are still missing, {min(missing)} among them; rerun")
        require_held()
        info = describe(dataset, **_recorded(settings), plans_sha256=hashes, absent_sources=absent)
        publish_indexes(dataset, info)
        publish_bytes(dataset / FILE_NAME, info_bytes(info))

    console.print(_summary(info, dataset))
    return _exit_code(info, dataset, config.max_failed, console)


def _recorded(settings: PlanSettings) -> dict[str, Any]:
    """Return the settings that `dataset.json` records."""
    return {
        "corpus": settings.corpus,
        "fingerprint": settings.fingerprint,
        "codec": asdict(settings.codec),
        "mel": asdict(settings.mel),
        "segment_frames": settings.segment_frames,
        "treatments": [settings.treatment.changes],
    }


def _exit_code(info: DatasetInfo, dataset: Location, max_failed: float, console: Console) -> int:
    """Return 0, or 3 if a larger share of the source failed than --max-failed."""
    made_s = sum(totals.seconds for totals in info.splits.values())
    total_s = made_s + info.failed_seconds
    share = info.failed_seconds / total_s if total_s else float(info.failed_sources > 0)
    if share <= max_failed:
        return 0
    advice = f"see whisper-gpt inspect {dataset}; --retry-failed retries them"
    console.print(f"{share:.1%} of the source failed, more than --max-failed {max_failed:.1%}: {advice}")
    return EXIT_TOO_MANY_FAILED


def _summary(info: DatasetInfo, dataset: Location) -> str:
    parts = [f"{s}: {t.samples} samples, {t.seconds / 3600:.3f} h, shards: {t.shards}" for s, t in info.splits.items()]
    if info.failed_sources:
        parts.append(f"{info.failed_sources} sources failed ({info.failed_seconds:.1f} s)")
    return f"{dataset}: {' · '.join(parts)}"
