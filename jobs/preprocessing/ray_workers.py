"""A pool of Ray actors that hold a codec and make shards, with a bounded number of tasks in flight."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import ray

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.event_log import RunLog
from whisper_gpt.jobs.common.ray_cluster import first_ready
from whisper_gpt.jobs.preprocessing.shard_queue import BuildShard, Probe, ShardQueue, Work
from whisper_gpt.pipeline.shards.task import ShardTask, WorkerSetup

# Ray's errors for a dead worker or node.
_DEATH_ERRORS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
)
_NODE_GONE = "its node is gone"
_MAX_STARTUP_DEATHS = 5  # consecutive start-up failures tolerated beyond one per worker


class ShardWorker:
    """Holds the codec and the mel transform; single-threaded, as a machine runs one worker per core.

    Ray never restarts it: the driver has to know which work a worker died on.
    """

    def __init__(self, setup: WorkerSetup):
        self._setup = setup
        self._loaded: Any = None

    @ray.method(num_returns="streaming")
    def make(self, task: ShardTask) -> Iterator[float]:
        """Make one shard; yield 0 when it is begun, then the seconds of finished sources, at most once a second."""
        from whisper_gpt.jobs.preprocessing.planning import load_rows
        from whisper_gpt.pipeline.shards.make import make_shard

        job, (codec, log_mel) = self._setup.job, self._load()
        rows = load_rows(job, task)
        yield 0.0
        yield from _once_a_second(make_shard(job, task, rows, codec, log_mel))

    @ray.method(num_returns="streaming")
    def try_sources(self, task: ShardTask, sources: tuple[str, ...]) -> Iterator[float]:
        """Encode some sources of a shard and discard the result; yield 0 when that is begun."""
        from whisper_gpt.jobs.preprocessing.planning import load_rows
        from whisper_gpt.pipeline.shards.make import try_sources

        job, (codec, log_mel) = self._setup.job, self._load()
        rows = [row for row in load_rows(job, task) if row["path"] in sources]
        yield 0.0
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
    startup_deaths = 0
    try:
        while queue or running:
            while queue and len(running) < workers:
                worker = idle.pop() if idle else worker_class.remote(setup)
                current = _begin(worker, queue.take())
                running[current.stream] = current
                del worker, current  # a leftover handle would keep an idle worker's core
            stream = first_ready(running, stopped)
            current = running[stream]
            try:
                seconds: float = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                queue.done(current.work)
                log.write("done", **current.described())
                if queue:  # else drop the handle, which frees the core for a worker that is not placed yet
                    idle.append(current.worker)
            except _DEATH_ERRORS as error:
                del running[stream]
                reason = _why(error)
                log.write("died", **current.described(), reason=reason)
                startup_deaths = 0 if current.begun else startup_deaths + 1
                if startup_deaths > workers + _MAX_STARTUP_DEATHS:
                    raise JobError(f"Ray workers die at start-up ({reason}); rerun to resume") from error
                if getattr(error, "actor_init_failed", False):
                    raise JobError(f"a Ray worker cannot be started: {_last_line(error)}") from error
                if reason == _NODE_GONE:
                    queue.node_lost(current.work)
                elif current.begun:
                    queue.died(current.work, reason)
                else:
                    queue.give_back(current.work)
                yield -current.seconds
            else:
                if not current.begun:
                    log.write("begun", **current.described())
                    current.begun, startup_deaths = True, 0
                current.seconds += seconds
                yield seconds
            del current
    finally:
        for unfinished in running.values():
            ray.kill(unfinished.worker)


def _once_a_second(amounts: Iterable[float]) -> Iterator[float]:
    """Add up amounts and yield the sum about every second, and at the end: each is a message to the driver."""
    total, yielded = 0.0, time.monotonic()
    for amount in amounts:
        total += amount
        if time.monotonic() - yielded > 1:
            yield total
            total, yielded = 0.0, time.monotonic()
    yield total


@dataclass
class _Running:
    """A task on its worker: whether it has begun, and the seconds of audio that are done."""

    work: Work
    worker: Any
    stream: Any
    begun: bool = False
    seconds: float = 0.0

    def described(self) -> dict[str, Any]:
        probed = {"sources": self.work.sources} if isinstance(self.work, Probe) else {}
        return {"shard": self.work.task.shard, **probed}


def _begin(worker: Any, work: Work) -> _Running:
    if isinstance(work, BuildShard):
        return _Running(work, worker, worker.make.remote(work.task))
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
