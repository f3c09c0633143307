"""Which shard is made next, and what becomes of one whose worker died: tried again, then searched for the file.

Knows nothing of Ray: it is told what was done and who died, and says what to do.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.pipeline.shards.task import MAX_CRASHES, ShardTask

_SEARCHES = 2
_NODES = 10


@dataclass(frozen=True)
class Make:
    """Make the shard of a task, and publish it."""

    task: ShardTask


@dataclass(frozen=True)
class Try:
    """Encode some `sources` (paths) of a task's shard, and throw the result away: does the worker live?"""

    task: ShardTask
    sources: tuple[str, ...]


Work = Make | Try


@dataclass
class _Search:
    """Looking for the sources of a shard that end their worker, by halves."""

    open: int
    deaths: dict[str, int] = field(default_factory=dict)
    guilty: list[str] = field(default_factory=list)


class ShardQueue:
    """The work that waits, the longest shard first, and what is known of shards whose workers died.

    `sources_of` lists the paths of a shard's sources; `say` takes a line for the user.
    """

    def __init__(
        self,
        tasks: Iterable[ShardTask],
        sources_of: Callable[[ShardTask], list[str]],
        say: Callable[[str], None],
    ):
        self._waiting: list[Work] = [Make(task) for task in sorted(tasks, key=lambda task: task.seconds)]
        self._sources_of, self._say = sources_of, say
        self._deaths: dict[str, int] = {}
        self._searches: dict[str, int] = {}
        self._nodes_lost: dict[str, int] = {}
        self._search: dict[str, _Search] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def take(self) -> Work:
        """The next piece of work; it ends by `done`, `died`, `node_lost` or `give_back`."""
        return self._waiting.pop()

    def give_back(self, work: Work) -> None:
        """`work` was not begun."""
        self._waiting.append(work)

    def node_lost(self, work: Work) -> None:
        """The node of `work`'s worker is gone, hardly for what it did: that counts only after the tenth of a shard."""
        shard = work.task.shard
        self._nodes_lost[shard] = self._nodes_lost.get(shard, 0) + 1
        if self._nodes_lost[shard] > _NODES:
            self.died(work, "its node was lost")
            return
        self._say(f"{shard}: the node of its worker is gone; it is made again")
        self._waiting.append(work)

    def done(self, work: Work) -> None:
        """A worker finished `work`."""
        if isinstance(work, Try):
            self._closed(work.task)

    def died(self, work: Work, reason: str) -> None:
        """A worker died over `work`. Raises `JobError` for a shard that ends workers though none of its files does."""
        if isinstance(work, Make):
            self._maker_died(work.task, reason)
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
        self._say(f"{source}: gave up, the worker died {MAX_CRASHES} times of this file alone ({reason})")
        search.guilty.append(source)
        self._closed(work.task)

    def _maker_died(self, task: ShardTask, reason: str) -> None:
        shard = task.shard
        self._deaths[shard] = self._deaths.get(shard, 0) + 1
        if self._deaths[shard] < MAX_CRASHES:
            self._say(f"{shard}: its worker died ({reason}); it is made again")
            self._waiting.append(Make(task))
            return
        sources = tuple(source for source in self._sources_of(task) if source not in task.given_up)
        if not sources or self._searches.get(shard, 0) == _SEARCHES:
            raise JobError(
                f"{shard}: its worker dies again and again ({reason}), though of none of its files alone; give workers "
                "more memory, or make shards smaller in a new --out, then rerun"
            )
        self._say(f"{shard}: its worker died {MAX_CRASHES} times ({reason}); looking for the file that does it")
        self._searches[shard] = self._searches.get(shard, 0) + 1
        pieces = _halves(task, sources)
        self._search[shard] = _Search(open=len(pieces))
        self._waiting += pieces

    def _closed(self, task: ShardTask) -> None:
        search = self._search[task.shard]
        search.open -= 1
        if search.open == 0:
            del self._search[task.shard]
            self._deaths[task.shard] = 0
            self._waiting.append(Make(replace(task, given_up=tuple(sorted({*task.given_up, *search.guilty})))))


def _halves(task: ShardTask, sources: tuple[str, ...]) -> list[Try]:
    middle = len(sources) // 2
    return [Try(task, half) for half in (sources[:middle], sources[middle:]) if half]
