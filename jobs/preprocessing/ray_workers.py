"""A pool of Ray actors that hold a codec and make shards, with a bounded number of tasks in flight."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.event_log import RunLog
from whisper_gpt.jobs.common.ray_cluster import first_ready
from whisper_gpt.jobs.preprocessing.shard_queue import BuildShards, Probe, ShardQueue, Work
from whisper_gpt.pipeline.shards.task import Progress, ShardTask, WorkerSetup

# Ray's errors for a dead worker or node.
_DEATH_ERRORS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
)
_BEGUN = Progress(0.0, 0)
_NODE_GONE = "its node is gone"
# A cluster that has just lost a node may refuse actors for some seconds. So after workers failed to start there is a
# pause, of 1 s first and then twice as long each time; after the sixth failure the run ends.
_FIRST_PAUSE_S = 1.0
_MAX_FAILED_STARTS = 6


class ShardWorker:
    """Holds the codec and the mel transform; single-threaded, as a machine runs one worker per core.

    Ray never restarts it: the driver has to know which work a worker died on.
    """

    def __init__(self, setup: WorkerSetup):
        self._setup = setup
        self._loaded: Any = None

    @ray.method(num_returns="streaming")
    def make(self, tasks: tuple[ShardTask, ...]) -> Iterator[Progress]:
        """Make some shards; report when that is begun, then once a second and at the end of each shard."""
        from whisper_gpt.jobs.preprocessing.planning import load_rows
        from whisper_gpt.pipeline.shards.make import make_shards

        job, (codec, log_mel) = self._setup.job, self._load()
        rows = [(task, load_rows(job, task)) for task in tasks]
        yield _BEGUN
        yield from _once_a_second(make_shards(job, rows, codec, log_mel))

    @ray.method(num_returns="streaming")
    def try_sources(self, task: ShardTask, sources: tuple[str, ...]) -> Iterator[Progress]:
        """Encode some sources of a shard and discard the result; report when that is begun."""
        from whisper_gpt.jobs.preprocessing.planning import load_rows
        from whisper_gpt.pipeline.shards.make import try_sources

        job, (codec, log_mel) = self._setup.job, self._load()
        rows = [row for row in load_rows(job, task) if row["path"] in sources]
        yield _BEGUN
        try_sources(job, rows, codec, log_mel)

    def _load(self) -> tuple[Any, Any]:
        """Load codec and mel transform; not in __init__, so that an error reaches the driver with its message."""
        from whisper_gpt.pipeline.shards.encoder import load_encoder

        self._loaded = self._loaded or load_encoder(self._setup)
        return self._loaded


WorkerActor = ray.remote(num_cpus=1)(ShardWorker)


def make_shards(
    queue: ShardQueue,
    setup: WorkerSetup,
    workers: int,
    log: RunLog,
    stopped: Callable[[], bool],
    gpu_share: float = 1.0,
) -> Generator[float, None, None]:
    """Do all the work of `queue` on up to `workers` actors, with one task in flight on each; for CUDA each takes that
    share of a GPU.

    Yields the seconds of audio that are done; negative if a worker died and its part of a shard is lost. Raises
    `JobError` if workers keep dying at start-up, `KeyboardInterrupt` once `stopped`.
    """
    worker_class = WorkerActor.options(num_gpus=gpu_share if setup.device == "cuda" else 0)
    idle: list[Any] = []
    running: dict[Any, _Running] = {}  # by the stream of what the worker yields
    starts = FailedStarts()
    try:
        while queue or running:
            while queue and len(running) < workers and (idle or starts.pause_s(time.monotonic()) == 0):
                worker = idle.pop() if idle else worker_class.remote(setup)
                current = _begin(worker, queue.take(workers))
                running[current.stream] = current
                del worker, current  # a leftover handle would keep an idle worker's core
            pausing = queue and len(running) < workers
            stream = first_ready(running, stopped, starts.pause_s(time.monotonic()) if pausing else math.inf)
            if stream is None:
                continue
            current = running[stream]
            try:
                progress: Progress = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                queue.done(current.work)
                if isinstance(current.work, Probe):
                    log.write("done", **current.described())
                if queue:  # else drop the handle, which frees the core for a worker that is not placed yet
                    idle.append(current.worker)
            except _DEATH_ERRORS as error:
                del running[stream]
                reason, explanation = _why(error), _last_line(error)
                log.write("died", **current.described(), reason=reason, explanation=explanation)
                if not current.begun:
                    starts = starts.after_failure(current.started, time.monotonic())
                    if starts.count == _MAX_FAILED_STARTS:
                        message = f"Ray workers die at start-up ({reason}: {explanation}); rerun to resume"
                        raise JobError(message) from error
                if getattr(error, "actor_init_failed", False):
                    raise JobError(f"a Ray worker cannot be started: {explanation}") from error
                if reason == _NODE_GONE:
                    queue.node_lost(current.left)
                elif current.begun:
                    queue.died(current.left, reason)
                else:
                    queue.give_back(current.left, explanation)
                yield -current.unpublished_s
            else:
                if not current.begun:
                    log.write("begun", **current.described())
                    current.begun, starts = True, FailedStarts()
                if isinstance(current.work, BuildShards):
                    current.work.log_published(log, current.published, progress.published)
                current.published = progress.published
                current.seconds += progress.seconds
                yield progress.seconds
            del current
    finally:
        for unfinished in running.values():
            ray.kill(unfinished.worker)


@dataclass(frozen=True)
class FailedStarts:
    """How often workers failed to start since one did, and the time until which no other is started.

    Workers that were started before one of them failed are one failure with it.
    """

    count: int = 0
    paused_until: float = 0.0

    def after_failure(self, started: float, now: float) -> "FailedStarts":
        """Count a worker that was `started` and has failed, unless it was started before an earlier one failed."""
        if started < self.paused_until:
            return self
        return FailedStarts(self.count + 1, now + _FIRST_PAUSE_S * 2**self.count)

    def pause_s(self, now: float) -> float:
        """Return the seconds for which no worker is to be started."""
        return max(0.0, self.paused_until - now)


def _once_a_second(reports: Iterable[Progress]) -> Iterator[Progress]:
    """Add up reports, and yield the sum about every second and when a shard is published: each is a message."""
    total_s, published, yielded = 0.0, 0, time.monotonic()
    for report in reports:
        total_s += report.seconds
        if report.published > published or time.monotonic() - yielded > 1:
            yield Progress(total_s, report.published)
            total_s, published, yielded = 0.0, report.published, time.monotonic()


@dataclass
class _Running:
    """Work on its worker: whether it has begun, how many shards are published, the seconds of audio done, and when it
    was given to the worker."""

    work: Work
    worker: Any
    stream: Any
    begun: bool = False
    published: int = 0
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> Work:
        """The work without the shards that are published."""
        return self.work if isinstance(self.work, Probe) else BuildShards(self.work.tasks[self.published :])

    @property
    def unpublished_s(self) -> float:
        """Seconds of audio that are done, of shards that are not published."""
        if isinstance(self.work, Probe):
            return self.seconds
        return self.seconds - sum(task.seconds for task in self.work.tasks[: self.published])

    def described(self) -> dict[str, Any]:
        """Return the shard at work, and the sources that are tried."""
        if isinstance(self.work, Probe):
            return {"shard": self.work.task.shard, "sources": self.work.sources}
        # All shards may be published, if the worker dies between the last one and its return.
        return {"shard": self.work.tasks[min(self.published, len(self.work.tasks) - 1)].shard}


def _begin(worker: Any, work: Work) -> _Running:
    if isinstance(work, BuildShards):
        return _Running(work, worker, worker.make.remote(work.tasks))
    return _Running(work, worker, worker.try_sources.remote(work.task, work.sources))


def _why(error: Exception) -> str:
    """Summarise Ray's explanation of a death, which is a page long, in a few words."""
    text = str(error)
    if "running low on memory" in text or isinstance(error, ray.exceptions.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, ray.exceptions.NodeDiedError) or "node has died" in text or "node was terminated" in text:
        return _NODE_GONE
    return "killed, or crashed"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
