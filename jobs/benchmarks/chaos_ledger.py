"""What was done to runs, and what it cost them: which shards were begun again, and after which harm."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime


class Ledger:
    """Counts harms, and from the runs' events the shards that each of them cost."""

    def __init__(self) -> None:
        self.harms: Counter[str] = Counter()
        self.redone = 0
        self.redone_most = 0.0  # for one harm
        self._times: list[datetime] = []

    @property
    def rounds(self) -> int:
        """Harms done so far."""
        return self.harms.total()

    def add(self, what: str, at: datetime) -> None:
        """A harm was done, begun at a time."""
        self.harms[what] += 1
        self._times.append(at)

    def close(self, events: Sequence[dict]) -> None:
        """A dataset is finished: the `events` of all its runs, in order, say what the harms since the last one cost."""
        seen: set[str] = set()
        cost: Counter[int] = Counter()  # by how many harms had been done when a shard was begun again
        for event in events:
            if event["event"] == "begun":
                if event["shard"] in seen:
                    at = datetime.fromisoformat(event["at"])
                    cost[sum(time <= at for time in self._times)] += 1
                seen.add(event["shard"])
        self.redone += cost.total()
        before = 0
        for harms in sorted(cost):  # of harms in quick succession, nobody knows which one cost what
            self.redone_most = max(self.redone_most, cost[harms] / max(1, harms - before))
            before = harms
        self._times.clear()
