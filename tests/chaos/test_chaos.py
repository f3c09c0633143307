"""Runs that are killed and damaged at random moments end with the bytes of an undisturbed one: the short form."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.ledger import Ledger
from tests.chaos.rounds import survive
from whisper_gpt.jobs.common.progress import status_console

pytestmark = pytest.mark.slow


def test_random_kills_do_not_change_the_bytes(store: Any, synthetic_corpora: Path) -> None:
    """One worker, two workers, two nodes, an object store, and runs that lose workers, drivers, nodes and files.

    `CHAOS_ROUNDS` in the environment says how many faults are injected.
    """
    rounds = int(os.environ.get("CHAOS_ROUNDS", "6"))
    survived = survive(synthetic_corpora, rounds, 3, str(store.bucket() / "dataset"), status_console())
    print(survived)
    assert survived.passed, survived
    assert survived.rounds == rounds and survived.equal.keys() >= {"2 workers", "2 nodes", "object store", "dataset 1"}


def test_cost_of_a_fault_is_what_was_restarted() -> None:
    start, ledger = datetime.fromisoformat("2026-01-01T00:00:00+00:00"), Ledger()

    def at(seconds: float, shard: str, event: str = "begun") -> dict:
        return {"at": (start + timedelta(seconds=seconds)).isoformat(), "event": event, "shard": shard}

    for what, begun, ended in (("worker killed", 10, 10), ("node lost", 20, 24), ("driver killed", 26, 26)):
        ledger.add(what, start + timedelta(seconds=begun), start + timedelta(seconds=ended))
    events = [at(1, "a"), at(2, "b"), at(11, "a"), at(12, "a", "died"), at(15, "b"), at(23, "c"), at(27, "c")]
    ledger.close([*events, at(28, "a"), at(29, "d"), at(30, "d")])
    # b was lost by the worker's death too, c by the node's (which took its time), d by nothing that was done here.
    assert (ledger.rounds, ledger.redone, ledger.redone_most, ledger.unexplained) == (3, 5, 2, 1)
    ledger.close([at(1, "a"), at(2, "b")])
    assert ledger.redone == 5
