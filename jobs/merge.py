"""Join datasets of the same codec and mel into a new one; their tars are linked or copied unchanged."""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations, permutations
from typing import Any

import pyarrow as pa
from rich.progress import track
from tyro.conf import Positional
from upath import UPath

from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.jobs.common.lock import output_lock
from whisper_gpt.jobs.common.progress import status_console
from whisper_gpt.jobs.preprocessing.planning import ABSENT_FILE, read_parts, refuse_foreign_folder
from whisper_gpt.manifests.database import attach, database
from whisper_gpt.manifests.dataset_info import FILE_NAME, DatasetInfo, info_bytes, read_info
from whisper_gpt.manifests.describe import describe
from whisper_gpt.manifests.failures import failures_path
from whisper_gpt.manifests.fragments import committed_shards, fragment_bytes, fragment_path, read_fragment, split_of
from whisper_gpt.manifests.index import publish_indexes
from whisper_gpt.manifests.location import Location, file_sha256, is_file, is_remote, local_copy, location
from whisper_gpt.manifests.publish import linked, publish_bytes, publishing
from whisper_gpt.manifests.scratch import scratch_folder
from whisper_gpt.pipeline.shards.plan import PlanPart, part_name, write_plan
from whisper_gpt.pipeline.shards.tar import shard_name, shard_path


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt merge`."""

    datasets: Positional[tuple[UPath, ...]]
    """Two or more finished datasets with the same fingerprint and no common source."""
    out: UPath = field(kw_only=True)
    """Folder, or s3:// or gs:// prefix, of the dataset to write."""


@dataclass(frozen=True)
class Member:
    """One of the datasets to join: its description, its plan, and the new names of its shards."""

    dataset: Location
    info: DatasetInfo
    parts: list[PlanPart]
    names: dict[str, str]


def run(config: Config) -> int:
    """Join the datasets, resuming an interrupted merge; return exit code 0."""
    require(len(config.datasets) > 1, "merge needs at least two datasets")
    console, out = status_console(), location(config.out)
    datasets = [location(dataset) for dataset in config.datasets]
    require(out not in datasets, f"--out {config.out}: is one of the datasets to join; pass another --out")
    members = _members(datasets)
    _refuse_other_fingerprints(members)
    _refuse_shared_sources(members)
    _refuse_divided_speakers(members)
    refuse_foreign_folder(out)
    with output_lock(out) as require_held:
        hashes = _publish_plan(out, members)
        absent = "".join((member.dataset / ABSENT_FILE).read_text(encoding="utf-8") for member in members)
        publish_bytes(out / ABSENT_FILE, absent.encode())
        done = committed_shards(out, hashes)
        shards = [shard for shard in _shards(members, hashes) if shard.name not in done]
        for shard in track(shards, "joining", console=console, transient=True):
            _copy_shard(shard, out)
        info = _description(out, members, hashes)
        require_held()
        publish_indexes(out, info)
        publish_bytes(out / FILE_NAME, info_bytes(info))
    samples = sum(totals.samples for totals in info.splits.values())
    console.print(f"{out}: {samples} samples of {len(members)} datasets")
    return 0


@dataclass(frozen=True)
class _Shard:
    """A shard to copy: its dataset, its old and new name, and the hash of the new plan's part that lists it."""

    dataset: Location
    old_name: str
    name: str
    plan_sha256: str


def _members(datasets: Sequence[Location]) -> list[Member]:
    """Read the datasets and number their shards consecutively. Raises `JobError` if one is not finished."""
    members: list[Member] = []
    next_index: dict[str, int] = {}
    for dataset in datasets:
        info, parts = read_info(dataset), read_parts(dataset)
        shards = [shard for part in parts for shard in _shards_of(part)]
        if missing := set(shards) - committed_shards(dataset):
            raise JobError(f"{dataset}: {len(missing)} shards are missing, {min(missing)} among them; finish it first")
        names = {}
        for shard in shards:
            split = split_of(shard)
            names[shard] = shard_name(split, next_index.get(split, 0))
            next_index[split] = next_index.get(split, 0) + 1
        members.append(Member(dataset, info, parts, names))
    return members


def _refuse_other_fingerprints(members: Sequence[Member]) -> None:
    first = members[0].info
    for member in members[1:]:
        for part in ("codec", "mel"):
            left, right = getattr(first, part), getattr(member.info, part)
            for name in sorted(left.keys() | right.keys()):
                if left.get(name) != right.get(name):
                    values = f"{left.get(name)!r} / {right.get(name)!r}"
                    raise JobError(
                        f"{members[0].dataset} and {member.dataset} cannot be joined: {part}.{name} differs: {values}"
                    )


def _refuse_shared_sources(members: Sequence[Member]) -> None:
    """Raise if datasets share source ids, which are made from corpus and path and begin the samples' keys."""
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder())
        connection = stack.enter_context(database(scratch))
        for number, member in enumerate(members):
            files = [stack.enter_context(local_copy(part.path.parent, part.name)) for part in member.parts]
            attach(connection, f"plan{number}", files)
        for i, j in combinations(range(len(members)), 2):
            ((count, example),) = connection.execute(
                f"SELECT count(*), min(id) FROM (SELECT id FROM plan{i} INTERSECT SELECT id FROM plan{j})"
            ).fetchall()
            if count:
                raise JobError(
                    f"{members[i].dataset} and {members[j].dataset} share {count} sources, such as {example}; if these "
                    "are different files, preprocess one of the datasets with another --name"
                )


def _refuse_divided_speakers(members: Sequence[Member]) -> None:
    """Raise if one dataset trains on a speaker that another holds out, as with different --hold-out shares."""
    for trained, held_out in permutations(members, 2):
        if divided := _speakers(trained, True) & _speakers(held_out, False):
            corpus, speaker = min(divided)
            raise JobError(
                f"{trained.dataset} trains on speaker {speaker} of {corpus}, whom {held_out.dataset} holds out, "
                f"{len(divided)} in all; preprocess both with one --hold-out"
            )


def _speakers(member: Member, training: bool) -> set[tuple[str, str]]:
    """Return corpus and speaker of the sources in the training split, or of those in the others."""
    columns = ["corpus", "speaker", "split"]
    rows = (row for part in member.parts for row in part.read(columns).group_by(columns).aggregate([]).to_pylist())
    return {(row["corpus"], row["speaker"]) for row in rows if row["speaker"] and (row["split"] == "train") == training}


def _renamed(part: PlanPart, names: dict[str, str]) -> Iterator[pa.Table]:
    """Yield the rows of a part of a plan with the new shard names."""
    for table in part.tables():
        shards = pa.array([names[shard] for shard in table["shard"].to_pylist()], pa.string())
        yield table.set_column(table.schema.get_field_index("shard"), table.schema.field("shard"), shards)


def _publish_plan(out: Location, members: Sequence[Member]) -> list[str]:
    """Write the parts of the new plan; return their hashes. Raises `JobError` if `out` has another plan."""
    parts = [(part, member.names) for member in members for part in member.parts]
    hashes = []
    with scratch_folder() as scratch:
        for i, (part, names) in enumerate(parts):
            path, local = out / part_name(i), scratch / part_name(i)
            write_plan(local, _renamed(part, names), part.schema())
            hashes.append(file_sha256(local))
            if not is_file(path):
                _link_or_copy(local, path)
            elif file_sha256(path) != hashes[-1]:
                raise JobError(f"{out} holds another dataset; write to another --out")
    if is_file(out / part_name(len(parts))):
        raise JobError(f"{out} holds another dataset; write to another --out")
    return hashes


def _shards(members: Sequence[Member], hashes: Sequence[str]) -> Iterator[_Shard]:
    hash_iterator = iter(hashes)
    for member in members:
        for part in member.parts:
            plan_sha256 = next(hash_iterator)
            for shard in _shards_of(part):
                yield _Shard(member.dataset, shard, member.names[shard], plan_sha256)


def _shards_of(part: PlanPart) -> list[str]:
    return part.read(["shard"])["shard"].unique().to_pylist()


def _copy_shard(shard: _Shard, out: Location) -> None:
    """Copy the tar, the failures, and last the fragment, with the shard's new name."""
    record, samples = read_fragment(fragment_path(shard.dataset, shard.old_name))
    if record.samples:
        _link_or_copy(
            shard_path(shard.dataset, record.split, shard.old_name), shard_path(out, record.split, shard.name)
        )
    failures = failures_path(shard.dataset, shard.old_name)
    if is_file(failures):
        publish_bytes(failures_path(out, shard.name), failures.read_bytes())
    record = replace(record, shard=shard.name, plan_sha256=shard.plan_sha256)
    names = pa.array([shard.name] * samples.num_rows, pa.string())
    renamed = samples.set_column(samples.schema.get_field_index("shard"), samples.schema.field("shard"), names)
    fragment = fragment_bytes(renamed, record)
    publish_bytes(fragment_path(out, shard.name), fragment)


def _link_or_copy(old: Location, new: Location) -> None:
    """Hard-link `old` to `new` if the file system allows it, as a shard never changes; else copy it."""
    if not is_remote(old) and not is_remote(new) and linked(old, new):
        return
    with old.open("rb") as source, publishing(new) as target:
        shutil.copyfileobj(source, target, 1 << 22)


def _distinct(treatments: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for treatment in treatments:
        if treatment not in found:
            found.append(treatment)
    return found


def _description(out: Location, members: Sequence[Member], hashes: list[str]) -> DatasetInfo:
    infos = [member.info for member in members]
    return describe(
        out,
        corpus=" + ".join(dict.fromkeys(info.corpus for info in infos)),
        fingerprint=infos[0].fingerprint,
        codec=infos[0].codec,
        mel=infos[0].mel,
        segment_frames=max(info.segment_frames for info in infos),
        plans_sha256=hashes,
        absent_sources=sum(info.absent_sources for info in infos),
        treatments=_distinct(treatment for info in infos for treatment in info.treatments),
    )
