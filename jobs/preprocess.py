"""Turn a corpus into shards of aligned mel frames and codec tokens, with manifests; a rerun resumes."""

import hashlib
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
from rich.console import Console
from tyro.conf import Positional

from jobs import ray_pool
from jobs.config_files import save_config
from jobs.errors import JobError
from jobs.progress import audio_progress
from jobs.shard_task import ShardTask
from manifests.dataset_info import FILE_NAME, DatasetInfo, info_bytes, mel_statistics, split_totals
from manifests.fragments import committed_shards, read_failures, read_records
from pipeline.audio import SAMPLE_RATE, probe
from pipeline.corpora import folder, librispeech, maestro, synthetic
from pipeline.corpora.recording import SPLITS, Recording, Scan
from pipeline.errors import AudioError
from pipeline.mel import HOP_SAMPLES, MelConfig
from pipeline.plan import PLAN_FILE, PlanSettings, Source, plan_bytes, plan_differences, plan_table, read_plan
from pipeline.publish import publish_bytes

_SCANS = {
    "librispeech": librispeech.scan,
    "maestro": maestro.scan,
    "folder": folder.scan,
    "synthetic": synthetic.scan,
}
ABSENT_FILE = "absent.txt"
EXIT_TOO_MANY_FAILED = 3


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt preprocess`."""

    corpus: Positional[Literal["librispeech", "maestro", "folder", "synthetic"]]
    """How the source is laid out."""
    source: Positional[Path | None] = None
    """Folder of the corpus (for synthetic: where to make it; OUT.source if not given)."""
    out: Path = field(kw_only=True)
    """Folder of the dataset to write, or to resume."""
    codec: str = "encodec_24khz"
    """encodec_24khz, or untrained: the same architecture with seeded weights, for trying things out."""
    codec_weights: Path | None = None
    """File with the codec's official weights (else $WHISPER_GPT_CODEC_WEIGHTS, torch's hub cache, a download)."""
    codebooks: int = 8
    """Codebooks to keep, coarsest first: 8 are 6 kbps."""
    mels: int = 64
    """Mel bands."""
    mel_window: int = 1024
    """Length of the mel window in samples at 24 kHz; it ends with the frame."""
    segment_s: float = 30.0
    """Longest sample in seconds; longer recordings become several samples."""
    shard_mb: float = 8.0
    """About how large a shard becomes, in megabytes: the unit of work, of retry and of reading."""
    splits: tuple[str, ...] = SPLITS
    """Which of train, validation and test to make."""
    workers: int | None = None
    """Workers, one core each; all cores of the cluster if not given."""
    ray_address: str | None = None
    """Address of a Ray cluster (auto for the one on this machine); Ray is started here if not given."""
    max_failed: float = 0.01
    """Share of the planned seconds that may fail before the exit code is 3."""
    require_complete: bool = False
    """Refuse a corpus whose own tables name files that are not there."""


def run(config: Config) -> int:
    """Scan, plan, make the shards that are missing, describe the dataset → exit code 0, or 3."""
    console = Console(stderr=True)
    dataset, root = config.out, _source_root(config)
    settings, setup = (
        _settings(config),
        ray_pool.WorkerSetup(config.codec, _absolute(config.codec_weights), config.codebooks, _mel(config)),
    )
    scan = _scan(config, root, console)
    plan = _stored_or_new_plan(dataset, plan_table(_probe_all(scan, root, config.splits), settings), scan)
    save_config(config, dataset / "logs" / "preprocess.yaml")

    tasks = list(_tasks(plan, committed_shards(dataset), root, dataset, settings))
    total_s = sum(plan["seconds"].to_pylist())
    with audio_progress(console, total_s) as advance:
        advance(total_s - sum(row["seconds"] for task in tasks for row in task.rows), resumed=True)
        if tasks:
            with ray_pool.cluster(config.ray_address, config.workers) as workers:
                for seconds in ray_pool.make_shards(tasks, setup, workers):
                    advance(seconds)

    info = describe(dataset, settings, plan, len(scan.absent))
    publish_bytes(dataset / FILE_NAME, info_bytes(info))
    share = _failed_share(info, plan)
    console.print(_summary(info, dataset), highlight=False)
    if share > config.max_failed:
        console.print(
            f"{share:.1%} of the source failed, more than --max-failed {config.max_failed:.1%}: "
            f"see whisper-gpt inspect {dataset}",
            highlight=False,
        )
        return EXIT_TOO_MANY_FAILED
    return 0


def describe(dataset: Path, settings: PlanSettings, plan: pa.Table, absent: int) -> DatasetInfo:
    """Add up the dataset's fragments and failures."""
    records, failures = read_records(dataset), read_failures(dataset)
    mean, deviation = mel_statistics(records)
    return DatasetInfo(
        corpus=settings.corpus,
        fingerprint=settings.fingerprint,
        codec=asdict(settings.codec),
        mel=asdict(settings.mel),
        segment_frames=settings.segment_frames,
        plan_sha256=hashlib.sha256(plan_bytes(plan)).hexdigest(),
        splits=split_totals(records),
        failed_sources=failures.num_rows,
        failed_seconds=round(float(sum(failures["seconds"].to_pylist())), 6),
        absent_sources=absent,
        mel_mean=mean,
        mel_std=deviation,
    )


def _source_root(config: Config) -> Path:
    unknown = sorted(set(config.splits) - set(SPLITS))
    if unknown:
        raise JobError(f"--splits {' '.join(unknown)}: the splits are {', '.join(SPLITS)}")
    if config.source is None:
        if config.corpus != "synthetic":
            raise JobError(f"preprocess {config.corpus} needs the folder of the corpus")
        return config.out.with_name(f"{config.out.name}.source").absolute()
    if config.corpus != "synthetic" and not config.source.is_dir():
        raise JobError(f"{config.source}: no such folder; pass the folder of the unpacked corpus")
    return config.source.absolute()


def _settings(config: Config) -> PlanSettings:
    from pipeline.codec_weights import load_codec

    codec = load_codec(config.codec, config.codec_weights, config.codebooks)
    segment_frames = round(config.segment_s * SAMPLE_RATE / HOP_SAMPLES)
    if segment_frames < 1 or config.shard_mb <= 0:
        raise JobError(f"--segment-s {config.segment_s} and --shard-mb {config.shard_mb} must be above zero")
    return PlanSettings(
        config.corpus, codec.fingerprint, _mel(config), segment_frames, config.shard_mb, tuple(config.splits)
    )


def _mel(config: Config) -> MelConfig:
    return MelConfig(bands=config.mels, window_samples=config.mel_window)


def _absolute(path: Path | None) -> Path | None:
    return path.absolute() if path else None


def _scan(config: Config, root: Path, console: Console) -> Scan:
    scan = _SCANS[config.corpus](root)
    for warning in scan.warnings:
        console.print(f"warning: {warning}", highlight=False)
    if scan.absent and config.require_complete:
        raise JobError(f"{len(scan.absent)} files of the corpus are absent, {scan.absent[0]} among them; complete it")
    return scan


def _probe_all(scan: Scan, root: Path, splits: tuple[str, ...]) -> list[Source]:
    """Read every header, in a few threads: the disk or the network is what is waited for."""
    wanted = [r for r in scan.recordings if r.split in splits]
    if not wanted:
        raise JobError(
            f"{root}: no recording of the splits {', '.join(splits)}; there are {len(scan.recordings)} others"
        )

    def probe_one(recording: Recording) -> Source:
        path = root / recording.path
        try:
            return Source(recording, path.stat().st_size, probe(path))
        except AudioError as error:
            return Source(recording, path.stat().st_size, error)
        except OSError as error:
            return Source(recording, 0, AudioError("scan", error.strerror or str(error)))

    with ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool:
        return list(pool.map(probe_one, wanted))


def _stored_or_new_plan(dataset: Path, plan: pa.Table, scan: Scan) -> pa.Table:
    """Publish the plan of a new dataset; for one that has a plan, insist that it is the same."""
    stored = dataset / PLAN_FILE
    if stored.is_file():
        differences = plan_differences(read_plan(stored.read_bytes(), str(stored)), plan)
        if differences:
            raise JobError(f"{dataset} holds another dataset: {'; '.join(differences)}. Write to another --out")
        return plan
    if dataset.exists() and any(dataset.iterdir()):
        raise JobError(f"{dataset}: not empty, and not a dataset; write to another --out")
    publish_bytes(dataset / ABSENT_FILE, "".join(f"{path}\n" for path in scan.absent).encode())
    publish_bytes(stored, plan_bytes(plan))
    return plan


def _tasks(
    plan: pa.Table, committed: set[str], root: Path, dataset: Path, settings: PlanSettings
) -> Iterator[ShardTask]:
    for (split, shard), rows in itertools.groupby(plan.to_pylist(), key=lambda row: (row["split"], row["shard"])):
        if shard not in committed:
            yield ShardTask(
                split,
                shard,
                list(rows),
                root,
                dataset.absolute(),
                settings.fingerprint,
                settings.segment_frames,
            )


def _failed_share(info: DatasetInfo, plan: pa.Table) -> float:
    planned_s = sum(plan["seconds"].to_pylist())
    return info.failed_seconds / planned_s if planned_s else info.failed_sources / plan.num_rows


def _summary(info: DatasetInfo, dataset: Path) -> str:
    parts = [
        f"{split} {totals.samples} samples, {totals.seconds / 3600:.2f} h, {totals.shards} shards"
        for split, totals in info.splits.items()
    ]
    failed = f"; {info.failed_sources} sources failed ({info.failed_seconds:.1f} s)" if info.failed_sources else ""
    return f"{dataset}: {' · '.join(parts)}{failed}"
