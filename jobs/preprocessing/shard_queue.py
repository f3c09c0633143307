"""The queue of shards. A shard whose worker died is retried, then bisected for the crashing file.

Independent of Ray: the caller reports finished work and deaths, and takes the next work.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.event_log import RunLog
from whisper_gpt.pipeline.shards.task import MAX_CRASHES, ShardTask

_MAX_SEARCHES = 2  # per shard
_MAX_LOST_NODES = 10  # per shard, before a lost node counts as a death
# A worker gets several shards at once, since its batch is full only until the last of them: as many as leave several
# such groups per worker, so that all end at about the same time.
_GROUPS_LEFT, _MAX_SHARDS = 4, 16


@dataclass(frozen=True)
class BuildShards:
    """Build and publish the shards of some tasks, one after the other."""

    tasks: tuple[ShardTask, ...]

    def alone(self) -> list["BuildShards"]:
        """The same work, one shard at a time."""
        return [BuildShards((task,)) for task in self.tasks]

    def log_published(self, log: RunLog, before: int, now: int) -> None:
        """Log that the number of published shards rose: these are done, and the one after each is begun."""
        for published in range(before + 1, now + 1):
            log.write("done", shard=self.tasks[published - 1].shard)
            if published < len(self.tasks):
                log.write("begun", shard=self.tasks[published].shard)


@dataclass(frozen=True)
class Probe:
    """Encode some `sources` (paths) of a task's shard and discard the result: does the worker survive?"""

    task: ShardTask
    sources: tuple[str, ...]


Work = BuildShards | Probe


@dataclass
class _Search:
    """The bisection of a shard for the sources that crash their worker."""

    open: int
    deaths: dict[str, int] = field(default_factory=dict)
    crashing: list[str] = field(default_factory=list)


class ShardQueue:
    """The waiting work, longest shard first, and the record of shards whose workers died.

    A shard whose worker died is retried alone, so that the next death points to it.
    `sources_of` lists the paths of a shard's sources; `log` takes a line for the user.
    """

    def __init__(
        self,
        tasks: Iterable[ShardTask],
        sources_of: Callable[[ShardTask], list[str]],
        log: Callable[[str], None],
    ):
        self._fresh = sorted(tasks, key=lambda task: task.seconds)  # never taken; may be grouped
        self._fresh_s = _seconds(self._fresh)
        self._waiting: list[Work] = []
        self._sources_of, self._log = sources_of, log
        self._deaths: dict[str, int] = {}
        self._searches: dict[str, int] = {}
        self._nodes_lost: dict[str, int] = {}
        self._search: dict[str, _Search] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting or self._fresh)

    def take(self, workers: int = 1) -> Work:
        """Return the next work for one of `workers`; report its end by `done`, `died`, `node_lost` or `give_back`."""
        if self._waiting:
            return self._waiting.pop()
        group = [self._fresh.pop()]
        most_s = self._fresh_s / (_GROUPS_LEFT * workers)
        while self._fresh and len(group) < _MAX_SHARDS and _seconds([*group, self._fresh[-1]]) <= most_s:
            group.append(self._fresh.pop())
        self._fresh_s -= _seconds(group)
        return BuildShards(tuple(group))

    def give_back(self, work: Work, reason: str) -> None:
        """Put back `work` that was not begun, as its worker died at start-up."""
        self._log(f"{_first_shard(work)}: its worker died at start-up ({reason}); trying again")
        self._waiting.append(work)

    def node_lost(self, work: Work) -> None:
        """Retry `work` whose node is gone, which the work hardly caused: counts as a death only after 10 per shard."""
        if isinstance(work, BuildShards) and len(work.tasks) != 1:
            for one in work.alone():
                self.node_lost(one)
            return
        shard = _first_shard(work)
        self._nodes_lost[shard] = self._nodes_lost.get(shard, 0) + 1
        if self._nodes_lost[shard] > _MAX_LOST_NODES:
            self.died(work, "node lost")
            return
        self._log(f"{shard}: its worker's node is gone; retrying")
        self._waiting.append(work)

    def done(self, work: Work) -> None:
        """A worker finished `work`."""
        if isinstance(work, Probe):
            self._closed(work.task)

    def died(self, work: Work, reason: str) -> None:
        """Record a death. Raises `JobError` if a shard keeps crashing workers although no single file does."""
        if isinstance(work, BuildShards):
            if len(work.tasks) == 1:
                self._shard_died(work.tasks[0], reason)
            elif work.tasks:
                self._log(f"{work.tasks[0].shard}: its worker died ({reason}); retrying it and the next ones alone")
                self._waiting += reversed(work.alone())
            return
        search = self._search[work.task.shard]
        if len(work.sources) > 1:
            search.open += 1
            self._waiting += _halves(work.task, work.sources)
            return
        source = work.sources[0]
        search.deaths[source] = search.deaths.get(source, 0) + 1
        if search.deaths[source] < MAX_CRASHES:
            self._waiting.append(work)
            return
        self._log(f"{source}: given up, the worker died {MAX_CRASHES} times on this file alone ({reason})")
        search.crashing.append(source)
        self._closed(work.task)

    def _shard_died(self, task: ShardTask, reason: str) -> None:
        shard = task.shard
        self._deaths[shard] = self._deaths.get(shard, 0) + 1
        if self._deaths[shard] < MAX_CRASHES:
            self._log(f"{shard}: its worker died ({reason}); retrying")
            self._waiting.append(BuildShards((task,)))
            return
        sources = tuple(source for source in self._sources_of(task) if source not in task.given_up)
        if not sources or self._searches.get(shard, 0) == _MAX_SEARCHES:
            raise JobError(
                f"{shard}: its workers keep dying ({reason}), but on none of its files alone; give workers more "
                "memory, or make smaller shards in a new --out, then rerun"
            )
        self._log(f"{shard}: its worker died {MAX_CRASHES} times ({reason}); searching for the crashing file")
        self._searches[shard] = self._searches.get(shard, 0) + 1
        halves = _halves(task, sources)
        self._search[shard] = _Search(open=len(halves))
        self._waiting += halves

    def _closed(self, task: ShardTask) -> None:
        search = self._search[task.shard]
        search.open -= 1
        if search.open == 0:
            del self._search[task.shard]
            self._deaths[task.shard] = 0
            given_up = tuple(sorted({*task.given_up, *search.crashing}))
            self._waiting.append(BuildShards((replace(task, given_up=given_up),)))


def _first_shard(work: Work) -> str:
    return work.task.shard if isinstance(work, Probe) else work.tasks[0].shard


def _seconds(tasks: Iterable[ShardTask]) -> float:
    return sum(task.seconds for task in tasks)


def _halves(task: ShardTask, sources: tuple[str, ...]) -> list[Probe]:
    middle = len(sources) // 2
    return [Probe(task, half) for half in (sources[:middle], sources[middle:]) if half]
