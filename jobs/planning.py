"""From a corpus on disk to its plan: scan, read the headers, decide, and hold against the plan of an earlier run."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from jobs.errors import JobError
from pipeline.audio import probe
from pipeline.corpora import folder, librispeech, maestro, synthetic
from pipeline.corpora.recording import Recording, Scan
from pipeline.errors import AudioError
from pipeline.plan import PLAN_FILE, PlanSettings, Source, plan_bytes, plan_differences, plan_table, read_plan
from pipeline.publish import publish_bytes

ABSENT_FILE = "absent.txt"
LOGS_FOLDER = "logs"  # of the runs, not of the dataset: the one place with paths, hosts and processes
_SCANS = {
    "librispeech": librispeech.scan,
    "maestro": maestro.scan,
    "folder": folder.scan,
    "synthetic": synthetic.scan,
}


def scan_corpus(corpus: str, root: Path, splits: tuple[str, ...]) -> Scan:
    """The recordings of `splits` below `root`. Raises `JobError` where there is none."""
    scan = _SCANS[corpus](root)
    chosen = Scan(
        scan.corpus,
        [recording for recording in scan.recordings if recording.split in splits],
        scan.warnings,
        {path: split for path, split in scan.absent.items() if split in splits},
    )
    if not chosen.recordings:
        others = len(scan.recordings)
        raise JobError(f"{root}: no recording of the splits {', '.join(splits)}, but {others} of others; see --splits")
    return chosen


def plan_corpus(scan: Scan, root: Path, settings: PlanSettings) -> pa.Table:
    """Read every header, in a few threads (the disk or the network is what is waited for), and plan."""

    def probe_one(recording: Recording) -> Source:
        path = root / recording.path
        try:
            size = path.stat().st_size
        except OSError as error:
            return Source(recording, 0, AudioError("scan", error.strerror or str(error)))
        try:
            return Source(recording, size, probe(path))
        except AudioError as error:
            return Source(recording, size, error)

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        return plan_table(list(pool.map(probe_one, scan.recordings)), settings)


def refuse_foreign_folder(dataset: Path) -> None:
    """Raise `JobError` for a folder that holds anything but a dataset, begun or finished."""
    if not dataset.exists() or (dataset / PLAN_FILE).is_file():
        return
    if not dataset.is_dir() or any(path.name != LOGS_FOLDER for path in dataset.iterdir()):
        raise JobError(f"{dataset}: not empty, and not a dataset; write to another --out")


def publish_plan(dataset: Path, plan: pa.Table, absent: dict[str, str]) -> None:
    """Write the plan of a new dataset; for a folder that has one, insist that it is the same.

    Raises `JobError` for a folder that holds another dataset.
    """
    stored = dataset / PLAN_FILE
    if stored.is_file():
        differences = plan_differences(read_plan(stored.read_bytes(), str(stored)), plan)
        if differences:
            raise JobError(f"{dataset} holds another dataset: {'; '.join(differences)}. Write to another --out")
    else:
        publish_bytes(stored, plan_bytes(plan))
    publish_bytes(dataset / ABSENT_FILE, "".join(f"{path}\n" for path in sorted(absent)).encode())
