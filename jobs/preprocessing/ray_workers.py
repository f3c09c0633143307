"""A pool of Ray actors that hold a codec and make shards, a bounded number in flight."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import ray

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.event_log import RunLog
from whisper_gpt.jobs.common.ray_cluster import first_ready
from whisper_gpt.jobs.preprocessing.shard_queue import Make, ShardQueue, Try, Work
from whisper_gpt.pipeline.shards.task import ShardTask, WorkerSetup

# What Ray says of a worker, or a whole node, that is no more.
_DEATHS = (
    ray.exceptions.RayActorError,
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.NodeDiedError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.OutOfMemoryError,
)
_NODE_GONE = "its node is gone"
_STILLBORN = 5  # beyond one of each worker: how many in a row may die before they begin anything


class ShardWorker:
    """Holds the codec and the mel transform; one thread, so that a machine runs one worker a core.

    Never restarted by Ray: who died over what is the driver's to know.
    """

    def __init__(self, setup: WorkerSetup):
        self._setup = setup
        self._loaded: Any = None

    @ray.method(num_returns="streaming")
    def make(self, task: ShardTask) -> Iterator[float]:
        """Make one shard, yielding 0 once it is begun and then the seconds of each source as it is done with."""
        from whisper_gpt.jobs.preprocessing.planning import load_rows
        from whisper_gpt.pipeline.shards.make import make_shard

        job, (codec, log_mel) = self._setup.job, self._load()
        rows = load_rows(job, task)
        yield 0.0
        yield from make_shard(job, task, rows, codec, log_mel)

    @ray.method(num_returns="streaming")
    def try_sources(self, task: ShardTask, sources: tuple[str, ...]) -> Iterator[float]:
        """Encode some sources of a shard for nothing, yielding 0 once that is begun."""
        from whisper_gpt.jobs.preprocessing.planning import load_rows
        from whisper_gpt.pipeline.shards.make import try_sources

        job, (codec, log_mel) = self._setup.job, self._load()
        rows = [row for row in load_rows(job, task) if row["path"] in sources]
        yield 0.0
        try_sources(job, rows, codec, log_mel)

    def _load(self) -> tuple[Any, Any]:
        """The codec and the mel transform; here and not at the start, so that what goes wrong has words."""
        from whisper_gpt.pipeline.shards.encoder import load_encoder

        self._loaded = self._loaded or load_encoder(self._setup)
        return self._loaded


WorkerActor = ray.remote(num_cpus=1)(ShardWorker)


def make_shards(
    queue: ShardQueue, setup: WorkerSetup, workers: int, log: RunLog, stopped: Callable[[], bool]
) -> Generator[float, None, None]:
    """Do all the work of `queue` on up to `workers` actors, one piece in flight on each.

    Yields the seconds of audio done with; less than 0 where a worker died and what it had done of a shard is lost.
    Raises `JobError` where workers cannot be kept alive long enough to begin, `KeyboardInterrupt` once `stopped`.
    """
    worker_class = WorkerActor.options(num_gpus=int(setup.device == "cuda"))
    idle: list[Any] = []
    running: dict[Any, _Running] = {}  # by the stream of what the worker yields
    stillborn = 0
    try:
        while queue or running:
            while queue and len(running) < workers:
                worker = idle.pop() if idle else worker_class.remote(setup)
                current = _begin(worker, queue.take())
                running[current.stream] = current
                del worker, current  # a handle left over would keep a worker's core, when it has nothing more to do
            stream = first_ready(running, stopped)
            current = running[stream]
            try:
                seconds: float = ray.get(next(stream))
            except StopIteration:
                del running[stream]
                queue.done(current.work)
                log.write("done", **current.described())
                if queue:  # else the last handle goes, and frees the core that a worker not yet placed may wait for
                    idle.append(current.worker)
            except _DEATHS as error:
                del running[stream]
                reason = _why(error)
                log.write("died", **current.described(), reason=reason)
                stillborn = 0 if current.begun else stillborn + 1
                if stillborn > workers + _STILLBORN:
                    raise JobError(f"Ray workers die before they begin ({reason}); rerun to go on") from error
                if getattr(error, "actor_init_failed", False):
                    raise JobError(f"a Ray worker cannot be made: {_last_line(error)}") from error
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
                    current.begun, stillborn = True, 0
                current.seconds += seconds
                yield seconds
            del current
    finally:
        for left in running.values():
            ray.kill(left.worker)


@dataclass
class _Running:
    """A piece of work on its worker: whether that has begun it, and the seconds of audio it is done with."""

    work: Work
    worker: Any
    stream: Any
    begun: bool = False
    seconds: float = 0.0

    def described(self) -> dict[str, Any]:
        tried = {"sources": self.work.sources} if isinstance(self.work, Try) else {}
        return {"shard": self.work.task.shard, **tried}


def _begin(worker: Any, work: Work) -> _Running:
    if isinstance(work, Make):
        return _Running(work, worker, worker.make.remote(work.task))
    return _Running(work, worker, worker.try_sources.remote(work.task, work.sources))


def _why(error: Exception) -> str:
    """Ray's explanation of a death, which is a page, in two or three words."""
    text = str(error)
    if "running low on memory" in text or isinstance(error, ray.exceptions.OutOfMemoryError):
        return "out of memory"
    if isinstance(error, ray.exceptions.NodeDiedError) or "node has died" in text or "node was terminated" in text:
        return _NODE_GONE
    return "killed, or crashed"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
