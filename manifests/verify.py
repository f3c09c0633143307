"""Verify a dataset against its own records: every shard is complete, and every sample matches its manifest row.

Reads tars with the standard library and arrays byte for byte, independently of the code that wrote them.
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np

from whisper_gpt.manifests.database import database
from whisper_gpt.manifests.dataset_info import DatasetInfo
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.failures import read_failures
from whisper_gpt.manifests.fragments import (
    MANIFEST_FOLDER,
    ShardRecord,
    fragment_path,
    joined,
    listed_shards,
    read_fragment,
)
from whisper_gpt.manifests.index import wrong_indexes
from whisper_gpt.manifests.location import Location, is_file, list_files
from whisper_gpt.manifests.schema import SAMPLES
from whisper_gpt.manifests.scratch import scratch_folder

_MEMBERS = {"codes": "codes.npy", "json": "json", "mel": "mel.npy", "mel_variants": "mel_variants.npy"}
_JSON_TYPES = (str, int, float)


@dataclass(frozen=True)
class Problem:
    """One problem: the file, the sample's key (empty if it concerns the whole file), and what is wrong."""

    file: str
    key: str
    what: str


@dataclass(frozen=True)
class PlannedShard:
    """A shard according to the plan: its name, its sources, and the hash of the plan's part that contains it."""

    name: str
    sources: set[str]
    plan_sha256: str


@dataclass(frozen=True)
class Checked:
    """What was found in a shard: its problems and, if its fragment could be read, its split and totals."""

    shard: str
    problems: list[Problem]
    split: str = ""
    samples: int = 0
    frames: int = 0


def verify_shard(dataset: Location, info: DatasetInfo, planned: PlannedShard) -> Checked:
    """Check one shard; it is independent of all others."""
    shard = planned.name
    manifest = f"{MANIFEST_FOLDER}/{shard}.parquet"
    if not is_file(fragment_path(dataset, shard)):
        return Checked(shard, [Problem(manifest, "", "missing: the shard is not finished")])
    try:
        record, samples = read_fragment(fragment_path(dataset, shard))
        failed = [row["source"] for row in read_failures(dataset, shard).to_pylist()]
    except ManifestError as error:
        return Checked(shard, [Problem(manifest, "", str(error))])
    rows = samples.to_pylist()
    sources = _check_sources(manifest, planned, record, {row["source"] for row in rows}, failed)
    problems = [*sources, *_check_shard(dataset, info, record, rows)]
    return Checked(shard, problems, record.split, record.samples, record.frames)


def verify_whole(
    dataset: Location, info: DatasetInfo, plans_sha256: Sequence[str], planned: Set[str], checked: Iterable[Checked]
) -> Iterator[Problem]:
    """Check what concerns all shards: totals, unique keys, the plan's hashes, indexes, files that are not in the plan.

    `planned` are the names of the planned shards, `checked` what was found in them.
    """
    for shard in sorted(listed_shards(dataset) - planned):
        yield Problem(f"{MANIFEST_FOLDER}/{shard}.parquet", "", "not in the plan")
    if plans_sha256 != info.plans_sha256:
        yield Problem("plan.parquet", "", "the hashes of the plan's parts are not those in dataset.json")
    totals: dict[str, list[int]] = {}
    unreadable = False
    for found in checked:
        unreadable = unreadable or not found.split
        if found.split:
            samples, frames, shards = totals.get(found.split, (0, 0, 0))
            totals[found.split] = [samples + found.samples, frames + found.frames, shards + bool(found.samples)]
    declared = {name: [t.samples, t.frames, t.shards] for name, t in info.splits.items()}
    for split in sorted(declared.keys() | totals.keys()):
        if declared.get(split) != totals.get(split):
            mismatch = f"{declared.get(split)}, but the manifest has {totals.get(split)}"
            yield Problem("dataset.json", "", f"{split}: samples, frames, shards are {mismatch}")
    if not unreadable:  # those problems come first
        yield from _check_keys(dataset)
    for file, what in wrong_indexes(dataset, info):
        yield Problem(file, "", what)
    for name in list_files(dataset):
        if name.endswith(".tar") and PurePosixPath(name).stem not in planned:
            yield Problem(name, "", "a tar that is not in the plan")


def _check_keys(dataset: Location) -> Iterator[Problem]:
    """Check that no key occurs twice. All fragments must be readable."""
    with scratch_folder() as scratch, database(scratch) as connection:
        connection.register("samples", joined(dataset, MANIFEST_FOLDER, "*.parquet", SAMPLES))
        twice = connection.execute("SELECT key FROM samples GROUP BY key HAVING count(*) > 1 ORDER BY key")
        for (key,) in twice.fetchall():
            yield Problem(MANIFEST_FOLDER, key, "the key is not unique")


def _check_sources(
    manifest: str, shard: PlannedShard, record: ShardRecord, done: set[str], failed: list[str]
) -> Iterator[Problem]:
    """Check that every planned source is either in the manifest or in the failures, not in both."""
    if record.plan_sha256 != shard.plan_sha256:
        yield Problem(manifest, "", "made for a different plan than this dataset's")
    for source in sorted(shard.sources - done - set(failed)):
        yield Problem(manifest, "", f"{source} is planned, but neither in the manifest nor in the failures")
    for source in sorted((done | set(failed)) - shard.sources):
        yield Problem(manifest, "", f"{source} is not in the plan")
    for source in sorted(done & set(failed)):
        yield Problem(manifest, "", f"{source} is in the manifest and in the failures")


def _check_shard(dataset: Location, info: DatasetInfo, record: ShardRecord, rows: list[dict]) -> Iterator[Problem]:
    file = f"{record.split}/{record.shard}.tar"
    path = dataset / file
    if record.fingerprint != info.fingerprint:
        yield Problem(file, "", "made with a different codec or mel than dataset.json says")
    if not is_file(path):
        if not record.samples and not rows:
            return  # none of its sources could be used
        yield Problem(file, "", "missing")
        return
    data = path.read_bytes()
    if len(data) != record.size_bytes:
        yield Problem(file, "", f"{len(data)} bytes long, but {record.size_bytes} in the manifest")
    elif hashlib.sha256(data).hexdigest() != record.sha256:
        yield Problem(file, "", "its sha256 differs from the manifest's")
    if len(rows) != record.samples or sum(row["frames"] for row in rows) != record.frames:
        yield Problem(file, "", f"{len(rows)} manifest rows do not match the shard's record ({record.samples} samples)")
    yield from _check_members(data, file, rows)
    for row in rows:
        for problem in _check_sample(data, row, info):
            yield Problem(file, row["key"], problem)


def _check_members(data: bytes, file: str, rows: list[dict]) -> Iterator[Problem]:
    """Check that the tar's members are exactly those of the manifest, in its order and at its offsets."""
    expected = [
        (f"{row['key']}.{extension}", row[f"{member}_offset"], row[f"{member}_size"])
        for row in rows
        for member, extension in _MEMBERS.items()
        if row[f"{member}_size"]
    ]
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            members = [(member.name, member.offset_data, member.size) for member in tar]
    except (tarfile.TarError, OSError) as error:
        yield Problem(file, "", f"not a complete tar: {error}")
        return
    for in_manifest, in_tar in zip(expected, members, strict=False):
        if in_manifest != in_tar:
            yield Problem(file, "", f"member (name, offset, size) is {in_tar}, but {in_manifest} in the manifest")
            return
    if len(expected) != len(members):
        yield Problem(file, "", f"{len(members)} members, but {len(expected)} in the manifest")


def _check_sample(data: bytes, row: dict, info: DatasetInfo) -> Iterator[str]:
    """Yield the problems of one sample: hashes, types, shapes, ranges, alignment."""
    raw = {name: data[row[f"{name}_offset"] : row[f"{name}_offset"] + row[f"{name}_size"]] for name in _MEMBERS}
    for name in ("codes", "mel", "mel_variants"):
        if raw[name] and hashlib.sha256(raw[name]).hexdigest() != row[f"{name}_sha256"]:
            yield f"the sha256 of its {name} differs from the manifest's"
    hop = info.codec["hop_samples"]
    if row["frames"] != -(-row["samples"] // hop):
        yield f"{row['frames']} frames for {row['samples']} samples, expected {-(-row['samples'] // hop)}"
    codes, mel = _read_npy(raw["codes"]), _read_npy(raw["mel"])
    if codes is None or codes.dtype != np.int16 or codes.shape != (info.codec["codebooks"], row["frames"]):
        yield f"codes are not int16 [{info.codec['codebooks']}, {row['frames']}]"
    elif codes.min() < 0 or codes.max() >= info.codec["codebook_size"]:
        yield f"codes from {codes.min()} to {codes.max()}, outside a codebook of {info.codec['codebook_size']}"
    shape = (row["frames"], info.mel["bands"])
    yield from _check_mel("mel", mel, shape, info)
    if additional := len(info.mel["variants"]) - 1:
        yield from _check_mel("mel_variants", _read_npy(raw["mel_variants"]), (additional, *shape), info)
    yield from _check_json(raw["json"], row)


def _check_mel(name: str, mel: np.ndarray | None, shape: tuple[int, ...], info: DatasetInfo) -> Iterator[str]:
    if mel is None or mel.dtype != np.float16 or mel.shape != shape:
        yield f"{name} is not float16 {list(shape)}"
    elif not np.isfinite(mel).all() or mel.min() < np.log10(info.mel["floor"]) - 0.01:
        yield f"{name} has values that are not finite or below log10(floor)"


def _check_json(raw: bytes, row: dict) -> Iterator[str]:
    try:
        meta = json.loads(raw)
    except ValueError as error:
        yield f"its JSON cannot be read: {error}"
        return
    for name, value in meta.items():
        if not isinstance(value, _JSON_TYPES):
            yield f"its JSON has {name} = {value!r}, which is neither text nor a number"
        elif name in row and row[name] != value:
            yield f"its JSON has {name} = {value!r}, but the manifest {row[name]!r}"


def _read_npy(raw: bytes) -> np.ndarray | None:
    """Return the array in .npy bytes, or None if they are not a plain array."""
    try:
        return np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return None
