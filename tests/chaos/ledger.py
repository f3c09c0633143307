"""Records faults injected into runs, and which shards had to be rebuilt because of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime


@dataclass
class _Fault:
    begun: datetime
    ended: datetime
    cost: int = 0


class Ledger:
    """Counts faults and, from the event log of the runs, the shards that each of them cost.

    A shard that begins a second time was lost in between; the first fault in that interval is charged for it.
    `unexplained` counts those without a fault.
    """

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.rebuilt = 0
        self.most_rebuilt = 0  # by one fault
        self.unexplained = 0
        self._since: list[_Fault] = []

    @property
    def rounds(self) -> int:
        """Number of faults injected so far."""
        return self.faults.total()

    def add(self, what: str, begun: datetime, ended: datetime) -> None:
        """Record a fault."""
        self.faults[what] += 1
        self._since.append(_Fault(begun, ended))

    def close(self, events: Sequence[dict]) -> None:
        """Charge the faults since the last call, given the `events` of all runs on a finished dataset, in order."""
        last: dict[str, datetime] = {}
        for event in events:
            if event["event"] != "begun":
                continue
            shard, at = event["shard"], datetime.fromisoformat(event["at"])
            if shard in last:
                self.rebuilt += 1
                between = (fault for fault in self._since if fault.ended >= last[shard] and fault.begun <= at)
                if fault := next(between, None):
                    fault.cost += 1
                else:
                    self.unexplained += 1
            last[shard] = at
        self.most_rebuilt = max([self.most_rebuilt, *(fault.cost for fault in self._since)])
        self._since.clear()
