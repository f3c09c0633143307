"""Plan a dataset: scan the corpus, examine every file, and write the plan or compare it with the existing one."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow as pa

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.event_log import LOGS_FOLDER
from whisper_gpt.manifests.dataset_info import FILE_NAME, read_info
from whisper_gpt.manifests.failures import open_failures
from whisper_gpt.manifests.location import (
    Location,
    is_excluded,
    is_file,
    is_folder,
    is_system_name,
    open_for_seeking,
)
from whisper_gpt.manifests.publish import TEMPORARY_SUFFIX, publish_bytes
from whisper_gpt.pipeline.corpora.recording import Scan, hold_out_speakers, with_speed
from whisper_gpt.pipeline.corpora.registry import CORPORA
from whisper_gpt.pipeline.shards.plan import (
    PLAN_FILE,
    PlanSettings,
    next_shards,
    part_name,
    plan_bytes,
    plan_table,
    read_plan,
    read_shard_rows,
    settings_differences,
    source_changes,
)
from whisper_gpt.pipeline.shards.source import Source, examine
from whisper_gpt.pipeline.shards.task import ShardJob, ShardTask

ABSENT_FILE = "absent.txt"


@dataclass(frozen=True)
class PlanPart:
    """A stored part of a dataset's plan: name and SHA-256 of its file, and its rows."""

    name: str
    sha256: str
    rows: pa.Table


def scan_corpus(
    corpus: str,
    name: str,
    root: Location,
    splits: tuple[str, ...],
    hold_out: tuple[float, float],
    exclude: Sequence[str] = (),
    speed: float = 1.0,
) -> Scan:
    """Return the recordings of `splits` below `root`, except those that match `exclude`; `hold_out` are the shares of
    training speakers moved to validation and test. A speed other than 1 is noted in each recording's `extra`.

    Raises `JobError` if there are none.
    """
    scan = CORPORA[corpus](root, name, exclude)
    if any(hold_out):
        if not any(recording.speaker for recording in scan.recordings if recording.split == "train"):
            raise JobError(f"--hold-out: no training recording of {root} has a known speaker")
        scan = hold_out_speakers(scan, *hold_out)
    chosen = Scan(
        scan.corpus,
        [with_speed(recording, speed) for recording in scan.recordings if recording.split in splits],
        scan.warnings,
        {path: split for path, split in scan.absent.items() if split in splits and not is_excluded(path, exclude)},
    )
    if not chosen.recordings:
        raise JobError(
            f"{root}: no recording in the splits {', '.join(splits)}, {len(scan.recordings)} in others; see --splits"
        )
    return chosen


def examine_all(scan: Scan, root: Location) -> list[Source]:
    """Examine every file, in a few threads, as disk or network are the bottleneck."""
    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(lambda recording: examine(root, recording), scan.recordings))


def refuse_foreign_folder(dataset: Location) -> None:
    """Raise `JobError` if the folder contains anything but a begun or finished dataset."""
    if is_file(dataset / PLAN_FILE):
        return
    names = {path.name for path in dataset.iterdir() if not is_system_name(path.name)} if is_folder(dataset) else set()
    # A run that was killed while writing its first file may have left a temporary one.
    allowed = {LOGS_FOLDER, *(name for name in names if name.startswith(".") and name.endswith(TEMPORARY_SUFFIX))}
    if is_file(dataset) or names - allowed:
        raise JobError(f"{dataset}: not empty, and not a dataset; write to another --out")


def read_parts(dataset: Location) -> list[PlanPart]:
    """Read the parts of a dataset's plan, in order; none for a new one. Raises `PipelineError` if one is damaged."""
    parts: list[PlanPart] = []
    while is_file(path := dataset / part_name(len(parts))):
        data = path.read_bytes()
        parts.append(PlanPart(path.name, hashlib.sha256(data).hexdigest(), read_plan(data, str(path))))
    return parts


def settle_plan(
    dataset: Location,
    sources: Sequence[Source],
    settings: PlanSettings,
    extend: bool = False,
    retry_failed: bool = False,
) -> list[PlanPart]:
    """Return the parts of the plan: those that are stored, and one more if there is anything new to plan.

    A new dataset is planned from all `sources`. For an existing one, settings and source must be unchanged, except that
    `extend` plans new sources, and `retry_failed` plans failed ones (only after a completed run of the last plan, so
    that an interrupted run and its repetition plan the same). Raises `JobError` if anything else has changed.
    """
    parts = read_parts(dataset)
    if not parts:
        return [_publish(dataset, 0, plan_table(sources, settings))]
    if differences := [words for part in parts for words in settings_differences(part.rows, settings)]:
        raise JobError(f"{dataset} holds another dataset: {'; '.join(differences)}. Write to another --out")
    planned = pa.concat_tables([part.rows for part in parts])
    failed = {row["source"]: row["attempts"] for row in open_failures(dataset).to_pylist()}
    changes = source_changes(planned, sources)
    # Failed sources may have been repaired or removed since.
    changed, gone = ([path for path in paths if path not in failed] for paths in (changes.changed, changes.gone))
    changes = replace(changes, changed=changed, gone=gone)
    if extend:
        new, changes = set(changes.added), replace(changes, added=[], gone=[])
    else:
        new = set()
    if words := changes.in_words():
        advice = " --extend adds what is new, or write" if changes.added else " Write"
        raise JobError(f"{dataset} was planned from another source: {'; '.join(words)}.{advice} to another --out")
    chosen = [source for source in sources if source.recording.path in new]
    if retry_failed and _is_described(dataset, parts):
        retried = [source for source in sources if source.recording.path in failed]
        chosen += [replace(source, attempt=failed[source.recording.path] + 1) for source in retried]
    if not chosen:
        return parts
    return [*parts, _publish(dataset, len(parts), plan_table(chosen, settings, next_shards(planned)))]


def publish_absent(dataset: Location, absent: dict[str, str]) -> None:
    """Write `absent.txt`: the files that the corpus metadata lists, but that are missing."""
    publish_bytes(dataset / ABSENT_FILE, "".join(f"{path}\n" for path in sorted(absent)).encode())


def shard_tasks(parts: Sequence[PlanPart], committed: set[str] | None = None) -> list[ShardTask]:
    """Return a task for every planned shard, except those that are `committed`."""
    return [
        ShardTask(part.name, part.sha256, row["split"], row["shard"], row["seconds_sum"])
        for part in parts
        for row in part.rows.group_by(["split", "shard"]).aggregate([("seconds", "sum")]).to_pylist()
        if row["shard"] not in (committed or ())
    ]


def load_rows(job: ShardJob, task: ShardTask) -> list[dict]:
    """Read the plan's rows of a shard."""
    with open_for_seeking(job.dataset / task.plan) as file:
        return read_shard_rows(file, task.shard)


def source_paths(job: ShardJob, task: ShardTask) -> list[str]:
    """Return the paths of a shard's sources."""
    return [row["path"] for row in load_rows(job, task)]


def _is_described(dataset: Location, parts: Sequence[PlanPart]) -> bool:
    """Whether a run has completed since the last part was planned."""
    described = is_file(dataset / FILE_NAME) and read_info(dataset).plans_sha256
    return described == [part.sha256 for part in parts]


def _publish(dataset: Location, index: int, rows: pa.Table) -> PlanPart:
    data = plan_bytes(rows)
    publish_bytes(dataset / part_name(index), data)
    return PlanPart(part_name(index), hashlib.sha256(data).hexdigest(), rows)
