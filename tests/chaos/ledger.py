"""What was done to runs, and what it cost them: which shards were begun and had to be begun again, by which harm."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass
class _Harm:
    begun: datetime
    ended: datetime
    cost: int = 0


class Ledger:
    """Counts harms, and from the runs' events the shards that each of them cost.

    A shard that is begun a second time was lost between the two; the first harm in between is the one that counts.
    `unexplained` are those without any.
    """

    def __init__(self) -> None:
        self.harms: Counter[str] = Counter()
        self.redone = 0
        self.redone_most = 0  # for one harm
        self.unexplained = 0
        self._since: list[_Harm] = []

    @property
    def rounds(self) -> int:
        """Harms done so far."""
        return self.harms.total()

    def add(self, what: str, begun: datetime, ended: datetime) -> None:
        """A harm was done."""
        self.harms[what] += 1
        self._since.append(_Harm(begun, ended))

    def close(self, events: Sequence[dict]) -> None:
        """A dataset is finished: the `events` of all its runs, in order, say what the harms since the last one cost."""
        last: dict[str, datetime] = {}
        for event in events:
            if event["event"] != "begun":
                continue
            shard, at = event["shard"], datetime.fromisoformat(event["at"])
            if shard in last:
                self.redone += 1
                between = (harm for harm in self._since if harm.ended >= last[shard] and harm.begun <= at)
                if harm := next(between, None):
                    harm.cost += 1
                else:
                    self.unexplained += 1
            last[shard] = at
        self.redone_most = max([self.redone_most, *(harm.cost for harm in self._since)])
        self._since.clear()
