"""Runs under random faults end with the bytes of an uninterrupted run."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.ledger import Ledger
from tests.chaos.rounds import run_chaos
from whisper_gpt.jobs.common.progress import status_console

pytestmark = pytest.mark.slow


def test_random_faults_do_not_change_a_byte(store: Any, synthetic_corpora: Path) -> None:
    """Covers one worker, two workers, two nodes, an object store, and runs that lose workers, drivers, nodes and files.

    The environment variable `CHAOS_ROUNDS` sets how many faults are injected.
    """
    rounds = int(os.environ.get("CHAOS_ROUNDS", "6"))
    report = run_chaos(synthetic_corpora, rounds, 3, str(store.bucket() / "dataset"), status_console())
    print(report)
    assert report.passed, report
    assert report.rounds == rounds and report.equal.keys() >= {"2 workers", "2 nodes", "object store", "dataset 1"}


def test_ledger_charges_rebuilt_shards_to_faults() -> None:
    start, ledger = datetime.fromisoformat("2026-01-01T00:00:00+00:00"), Ledger()

    def at(seconds: float, shard: str, event: str = "begun") -> dict:
        return {"at": (start + timedelta(seconds=seconds)).isoformat(), "event": event, "shard": shard}

    for what, begun, ended in (("worker killed", 10, 10), ("node lost", 20, 24), ("driver killed", 26, 26)):
        ledger.add(what, start + timedelta(seconds=begun), start + timedelta(seconds=ended))
    events = [at(1, "a"), at(2, "b"), at(11, "a"), at(12, "a", "died"), at(15, "b"), at(23, "c"), at(27, "c")]
    ledger.close([*events, at(28, "a"), at(29, "d"), at(30, "d")])
    # b was also lost with the worker, c with the node (whose removal takes time), d without any fault.
    assert (ledger.rounds, ledger.rebuilt, ledger.most_rebuilt, ledger.unexplained) == (3, 5, 2, 1)
    ledger.close([at(1, "a"), at(2, "b")])
    assert ledger.rebuilt == 5
