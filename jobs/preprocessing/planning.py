"""Plan a dataset: write the plan, or compare it with the existing one."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.event_log import LOGS_FOLDER
from whisper_gpt.jobs.preprocessing.scanning import Survey, recordings_in
from whisper_gpt.manifests.dataset_info import FILE_NAME, read_info
from whisper_gpt.manifests.failures import open_failures
from whisper_gpt.manifests.location import (
    Location,
    file_sha256,
    is_file,
    is_folder,
    is_system_name,
    local_copy,
)
from whisper_gpt.manifests.publish import TEMPORARY_SUFFIX, publish_bytes
from whisper_gpt.manifests.scratch import scratch_folder
from whisper_gpt.pipeline.corpora.recording import Found
from whisper_gpt.pipeline.shards.plan import (
    PLAN_FILE,
    PlanPart,
    PlanSettings,
    next_shards,
    part_name,
    plan_schema,
    settings_differences,
    stored_shard_mb,
    write_plan,
)
from whisper_gpt.pipeline.shards.plan_changes import SourceChanges, source_changes, write_chosen
from whisper_gpt.pipeline.shards.plan_order import Sorter, suited_shard_mb
from whisper_gpt.pipeline.shards.source import Source
from whisper_gpt.pipeline.shards.task import ShardJob, ShardTask

ABSENT_FILE = "absent.txt"


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
    """Find the parts of a dataset's plan, in order; none for a new one. Raises `PipelineError` if one is damaged."""
    parts: list[PlanPart] = []
    while is_file(path := dataset / part_name(len(parts))):
        part = PlanPart(path, file_sha256(path))
        part.schema()
        parts.append(part)
    return parts


def settle_plan(
    dataset: Location,
    survey: Survey,
    examine: Callable[[Iterator[Found]], Iterator[Source]],
    settings: PlanSettings,
    extend: bool = False,
    retry_failed: bool = False,
) -> list[PlanPart]:
    """Return the parts of the plan: those that are stored, and one more if there is anything new to plan.

    A new dataset is planned from all recordings of the survey, which `examine` turns into sources. For an existing one,
    settings and listing must be unchanged, except that `extend` plans new sources, and `retry_failed` plans failed ones
    (only after a completed run of the last plan, so that an interrupted run and its repetition plan the same). Raises
    `JobError` if anything else has changed.
    """
    parts = read_parts(dataset)
    if not parts:
        return [_publish(dataset, [], examine(survey.recordings()), settings)]
    if settings.shard_mb is None:
        settings = replace(settings, shard_mb=stored_shard_mb(parts[-1].schema()))
    if differences := [words for part in parts for words in settings_differences(part.schema(), settings)]:
        raise JobError(f"{dataset} holds another dataset: {'; '.join(differences)}. Write to another --out")
    failed = {row["source"]: row["attempts"] for row in open_failures(dataset).to_pylist()}
    retried = set(failed) if retry_failed and _is_described(dataset, parts) else set()
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        planned = [[stack.enter_context(local_copy(part.path.parent, part.name))] for part in parts]
        kinds = source_changes(planned, [survey.found], scratch, list(failed)).kinds
        new = extend and "added" in kinds
        refused = SourceChanges({k: change for k, change in kinds.items() if not (extend and k in ("added", "gone"))})
        if words := refused.in_words():
            advice = " --extend adds what is new, or write" if "added" in kinds else " Write"
            raise JobError(f"{dataset} was planned from another source: {'; '.join(words)}.{advice} to another --out")
        if not new and not retried:
            return parts
        file = scratch / "chosen.parquet"
        write_chosen(planned, [survey.found], scratch, file, new, sorted(retried))
        sources = (
            replace(source, attempt=failed[path] + 1) if (path := source.recording.path) in retried else source
            for source in examine(recordings_in(file))
        )
        if (first := next(sources, None)) is None:  # all that failed is gone
            return parts
        return [*parts, _publish(dataset, parts, chain([first], sources), settings)]


def publish_absent(dataset: Location, absent: dict[str, str]) -> None:
    """Write `absent.txt`: the files that the corpus metadata lists, but that are missing."""
    publish_bytes(dataset / ABSENT_FILE, "".join(f"{path}\n" for path in sorted(absent)).encode())


def shard_tasks(parts: Sequence[PlanPart], committed: set[str] | None = None) -> list[ShardTask]:
    """Return a task for every planned shard, except those that are `committed`."""
    return [
        ShardTask(part.name, part.sha256, row["split"], row["shard"], row["seconds_sum"])
        for part in parts
        for row in part.read(["split", "shard", "seconds"])
        .group_by(["split", "shard"], use_threads=False)
        .aggregate([("seconds", "sum")])
        .to_pylist()
        if row["shard"] not in (committed or ())
    ]


def load_rows(job: ShardJob, task: ShardTask) -> list[dict]:
    """Read the plan's rows of a shard."""
    return PlanPart(job.dataset / task.plan, task.plan_sha256).read_shard(task.shard)


def source_paths(job: ShardJob, task: ShardTask) -> list[str]:
    """Return the paths of a shard's sources."""
    return [row["path"] for row in load_rows(job, task)]


def _is_described(dataset: Location, parts: Sequence[PlanPart]) -> bool:
    """Whether a run has completed since the last part was planned."""
    described = is_file(dataset / FILE_NAME) and read_info(dataset).plans_sha256
    return described == [part.sha256 for part in parts]


def _publish(
    dataset: Location, before: Sequence[PlanPart], sources: Iterator[Source], settings: PlanSettings
) -> PlanPart:
    """Plan `sources` as the next part after those `before`."""
    path = dataset / part_name(len(before))
    with scratch_folder() as scratch:
        sorter = Sorter(scratch, settings.corpus)
        for source in sources:
            sorter.add(source)
        settings = replace(settings, shard_mb=suited_shard_mb(sorter.totals, settings))
        write_plan(path, sorter.planned(settings, next_shards(before)), plan_schema(settings))
    return PlanPart(path, file_sha256(path))
