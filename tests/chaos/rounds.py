"""Inject faults into a run at random moments, and compare the dataset it ends with to an uninterrupted run's."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tests.chaos.cluster import ChaosCluster
from tests.chaos.ledger import Ledger
from tests.helpers import hashes
from whisper_gpt.jobs.common.event_log import EVENTS_FILE, LOGS_FOLDER
from whisper_gpt.manifests.location import Location, location
from whisper_gpt.pipeline.codec.files import SMALL_NAME

_WORKERS = 2
_OPTIONS = ("--codec", SMALL_NAME, "--shard-mb", "0.3", "--segment-s", "5")
_TMPFS_MB = 64
# A run that takes longer counts as hanging.
_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class ChaosReport:
    """The result of the rounds.

    `rebuilt` counts shards that were begun again, `most_rebuilt` those of one fault, and `unexplained` those without
    one. `equal` compares, byte for byte, every committed file of one worker's uninterrupted run with the runs of two
    workers, of two nodes, in the object store, and with each dataset built under faults.
    """

    rounds: int
    faults: dict[str, int]
    not_tried: dict[str, str]
    runs: int
    datasets: int
    shards: int
    files: int
    rebuilt: int
    most_rebuilt: int
    unexplained: int
    equal: dict[str, bool] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every dataset equals the reference and no fault cost more than one shard per worker."""
        return all(self.equal.values()) and self.most_rebuilt <= _WORKERS and not self.unexplained


def run_chaos(source: Path, rounds: int, seed: int, store: str, console: Console) -> ChaosReport:
    """Build the reference, then inject faults into runs on a cluster of two nodes until there were `rounds` faults."""
    with tempfile.TemporaryDirectory(prefix="whisper-gpt-chaos-") as name, ChaosCluster(_WORKERS) as cluster:
        folder = Path(name)
        reference = folder / "reference"
        _finish(source, reference, "--workers=1")
        expected = hashes(reference)
        equal = {}
        others: list[tuple[str, Location, list[str]]] = [
            ("2 workers", folder / "two-workers", ["--workers=2"]),
            ("2 nodes", folder / "two-nodes", ["--ray-address", cluster.address]),
            ("object store", location(store), ["--workers=2"]),
        ]
        for what, out, options in others:
            _finish(source, out, *options)
            equal[what] = hashes(out) == expected
        with _small_disk(folder / "disk") as disk_full:
            chaos = _Chaos(source, folder / "disk", cluster, random.Random(seed), disk_full is None)
            datasets = 0
            while chaos.ledger.rounds < rounds:
                chaos.make_dataset(rounds)
                datasets += 1
                same = equal[f"dataset {datasets}"] = hashes(chaos.out) == expected
                chaos.ledger.close(chaos.events())
                console.print(f"{chaos.ledger.rounds} rounds, {datasets} datasets, {'equal' if same else 'DIFFERENT'}")
                shutil.rmtree(chaos.out)
        ledger = chaos.ledger
        return ChaosReport(
            rounds=ledger.rounds,
            faults=dict(sorted(ledger.faults.items())),
            not_tried={"disk full": disk_full} if disk_full else {},
            runs=chaos.runs,
            datasets=datasets,
            shards=sum(name.startswith("manifest/") for name in expected),
            files=len(expected),
            rebuilt=ledger.rebuilt,
            most_rebuilt=ledger.most_rebuilt,
            unexplained=ledger.unexplained,
            equal=equal,
        )


class _Chaos:
    """Runs of one command, and the faults injected into them."""

    def __init__(self, source: Path, disk: Path, cluster: ChaosCluster, rng: random.Random, can_fill_disk: bool):
        self.out = disk / "dataset"
        self.ledger = Ledger()
        self.runs = 0
        self._source, self._disk, self._cluster, self._rng = source, disk, cluster, rng
        self._faults = {
            "worker killed": lambda _: self._cluster.kill_worker(self._rng),
            "driver killed": self._kill_driver,
            "node lost": lambda _: self._cluster.lose_node(self._rng),
            "temporary file cut": lambda _: self._cut_temporary_file(),
        }
        if can_fill_disk:
            self._faults["disk full"] = self._fill_disk

    def make_dataset(self, rounds: int) -> None:
        """Run the command until the dataset is finished, injecting faults until there were `rounds` of them."""
        while True:
            deadline = time.monotonic() + _TIMEOUT_S
            with _started(self._source, self.out, "--ray-address", self._cluster.address) as driver:
                self.runs += 1
                while driver.poll() is None:
                    if self._cluster.is_working() and self.ledger.rounds < rounds:
                        time.sleep(self._rng.uniform(0, 2.5))
                        if driver.poll() is None:
                            self._inject_fault(driver)
                    time.sleep(0.05)
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"a run in {self.out} hangs after {self.ledger.rounds} rounds")
            if driver.returncode == 0:
                return

    def events(self) -> list[dict]:
        """The event log of all runs on the dataset, without lines truncated by a full disk."""
        events = []
        with contextlib.suppress(FileNotFoundError):
            for line in (self.out / LOGS_FOLDER / EVENTS_FILE).read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):
                    events.append(json.loads(line))
        return events

    def _inject_fault(self, driver: subprocess.Popen) -> None:
        what = self._rng.choice(list(self._faults))
        begun = datetime.now(UTC)
        if self._faults[what](driver):
            self.ledger.add(what, begun, datetime.now(UTC))

    def _kill_driver(self, driver: subprocess.Popen) -> bool:
        driver.kill()
        return True

    def _cut_temporary_file(self) -> bool:
        """Truncate one of the files being written to a random length."""
        files = [path for path in self.out.rglob(".*.tmp") if path.is_file()]
        if not files:
            return False
        with contextlib.suppress(FileNotFoundError):
            path = self._rng.choice(files)
            os.truncate(path, self._rng.randrange(path.stat().st_size + 1))
            return True
        return False

    def _fill_disk(self, driver: subprocess.Popen) -> bool:
        """Fill the small disk for one second."""
        filler = self._disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 16))
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(timeout=1)
        filler.unlink()
        return True


@contextlib.contextmanager
def _started(source: Path, out: Location, *options: str) -> Iterator[subprocess.Popen]:
    command = [sys.executable, "-m", "whisper_gpt.jobs.cli", "preprocess", "folder", str(source), "--out", str(out)]
    with subprocess.Popen([*command, *_OPTIONS, *options], stdout=-3, stderr=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _finish(source: Path, out: Location, *options: str) -> None:
    """Run without faults, and require success."""
    with _started(source, out, *options) as process:
        output = process.communicate(timeout=_TIMEOUT_S)[1].decode()
    if process.returncode:
        raise RuntimeError(f"an uninterrupted run failed: {output.strip().splitlines()[-1]}")


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[str | None]:
    """A tmpfs at `folder` that can be filled without affecting other processes; yields why there is none, or None."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_MB}m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        reason = mounted.stderr.strip() if mounted.returncode else None
    except OSError as error:
        reason = str(error)
    try:
        yield f"no tmpfs could be mounted: {reason}" if reason else None
    finally:
        if reason is None:
            subprocess.run(["umount", "-l", str(folder)], check=False)
