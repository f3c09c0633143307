"""Turn a corpus into shards of aligned mel frames and codec tokens, with manifests; a rerun resumes."""

import hashlib
import itertools
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
from tyro.conf import Positional

from jobs import ray_pool
from jobs.codec_fingerprint import codec_fingerprint
from jobs.config_files import save_config
from jobs.errors import JobError, UsageError, require
from jobs.output_lock import output_lock
from jobs.planning import ABSENT_FILE, LOGS_FOLDER, plan_corpus, publish_plan, refuse_foreign_folder, scan_corpus
from jobs.progress import audio_progress, status_console
from jobs.shard_task import ShardTask
from manifests.dataset_info import FILE_NAME, DatasetInfo, info_bytes, mel_statistics, split_totals
from manifests.fragments import FAILURES_FOLDER, committed_shards, read_failures, read_records
from pipeline.audio import SAMPLE_RATE
from pipeline.codec.files import OFFICIAL_NAME, SMALL_NAME, weights_file
from pipeline.codec.fingerprint import CodecFingerprint, Precision
from pipeline.corpora.recording import Scan
from pipeline.errors import PipelineError
from pipeline.mel_config import HOP_SAMPLES, MelConfig
from pipeline.plan import PLAN_FILE, PlanSettings
from pipeline.publish import publish_bytes

EXIT_TOO_MANY_FAILED = 3


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt preprocess`."""

    corpus: Positional[Literal["librispeech", "maestro", "folder", "synthetic"]]
    """How the source is laid out."""
    source: Positional[Path | None] = None
    """Folder of the corpus (for synthetic: a new one to make it in; OUT.source if not given)."""
    out: Path = field(kw_only=True)
    """Folder of the dataset to write, or to resume."""
    codec: str = OFFICIAL_NAME
    """encodec_24khz; encodec_24khz_small, which comes along; or the .safetensors file of a codec trained here.
    (EnCodec's 48 kHz model is not causal, so it is not offered.)"""
    codec_weights: Path | None = None
    """File with encodec_24khz's official weights, as .th or in Hugging Face's .safetensors (else
    $WHISPER_GPT_CODEC_WEIGHTS, torch's hub cache, a download)."""
    codebooks: int = 8
    """Codebooks to keep, coarsest first: 8 of 1024 codewords are 6 kbps."""
    precision: Precision = "fp32"
    """Of the codec's network. bf16 is faster on a CPU with AMX, but many codes differ: it makes another dataset."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where workers encode; with cuda each takes one GPU."""
    mels: int = 64
    """Mel bands."""
    mel_window: int = 1024
    """Length of the mel window in samples at 24 kHz; it ends with the frame."""
    segment_s: float = 30.0
    """Longest sample in seconds; longer recordings become several samples."""
    shard_mb: float = 8.0
    """About how large a shard becomes, in megabytes: the unit of work, of retry and of reading."""
    splits: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
    """Which splits to make."""
    workers: int | None = None
    """Workers, one core each; all cores of the cluster (with --device cuda all GPUs) if not given."""
    ray_address: str | None = None
    """Address of a Ray cluster (auto for the one on this machine); Ray is started here if not given."""
    max_failed: float = 0.01
    """Share of the planned seconds that may fail before the exit code is 3."""
    require_complete: bool = False
    """Refuse a corpus whose own tables name files that are not there."""


def run(config: Config) -> int:
    """Scan, plan, make the shards that are missing, describe the dataset → exit code 0, or 3."""
    _check(config)
    console = status_console()
    dataset, root = config.out, _source_root(config)
    weights = weights_file(config.codec, config.codec_weights)
    settings = _settings(config, weights)
    scan = scan_corpus(config.corpus, root, config.splits)
    if scan.absent and config.require_complete:
        raise JobError(f"{len(scan.absent)} files of the corpus are absent, {min(scan.absent)} among them; complete it")
    for warning in _warnings(scan, config):
        console.print(f"warning: {warning}")
    plan = plan_corpus(scan, root, settings)
    total_s = sum(plan["seconds"].to_pylist())

    ray_pool.refuse_dead_address(config.ray_address)
    refuse_foreign_folder(dataset)
    with output_lock(dataset):
        publish_plan(dataset, plan, scan.absent)
        save_config(config, dataset / LOGS_FOLDER / "preprocess.yaml")
        tasks = list(_tasks(plan, committed_shards(dataset), root, dataset, settings))
        with audio_progress(console, total_s) as advance:
            advance(total_s - sum(row["seconds"] for task in tasks for row in task.rows), resumed=True)
            if tasks:
                own = config.codec == SMALL_NAME  # which every node has, wherever it is installed there
                setup = ray_pool.WorkerSetup(settings.codec, None if own else weights, settings.mel, config.device)
                with ray_pool.cluster(config.ray_address, config.workers, config.device) as workers:
                    for seconds in ray_pool.make_shards(tasks, setup, workers):
                        advance(seconds)
        info = describe(dataset, settings, len(scan.absent))
        publish_bytes(dataset / FILE_NAME, info_bytes(info))

    console.print(_summary(info, dataset))
    share = info.failed_seconds / total_s if total_s else info.failed_sources / plan.num_rows
    if share > config.max_failed:
        allowed = f"more than --max-failed {config.max_failed:.1%}"
        console.print(f"{share:.1%} of the source failed, {allowed}: see {dataset / FAILURES_FOLDER} and inspect")
        return EXIT_TOO_MANY_FAILED
    return 0


def describe(dataset: Path, settings: PlanSettings, absent: int) -> DatasetInfo:
    """Add up the dataset's fragments and failures."""
    records, failures = read_records(dataset), read_failures(dataset)
    mean, deviation = mel_statistics(records)
    return DatasetInfo(
        corpus=settings.corpus,
        fingerprint=settings.fingerprint,
        codec=asdict(settings.codec),
        mel=asdict(settings.mel),
        segment_frames=settings.segment_frames,
        plan_sha256=hashlib.sha256((dataset / PLAN_FILE).read_bytes()).hexdigest(),
        splits=split_totals(records),
        failed_sources=failures.num_rows,
        failed_seconds=round(float(sum(failures["seconds"].to_pylist())), 6),
        absent_sources=absent,
        mel_mean=mean,
        mel_std=deviation,
    )


def _check(config: Config) -> None:
    needs_source = config.corpus != "synthetic"
    require(config.source is not None or not needs_source, f"{config.corpus} needs the folder of the corpus")
    for name in ("segment_s", "shard_mb"):
        value = getattr(config, name)
        require(0 < value < math.inf, f"--{name.replace('_', '-')} {value}: must be above zero")
    require(bool(config.splits), "--splits needs at least one of train, validation, test")
    require(config.workers is None or config.workers >= 1, f"--workers {config.workers}: must be at least 1")
    require(config.codebooks >= 1, f"--codebooks {config.codebooks}: must be at least 1")
    try:
        MelConfig(bands=config.mels, window_samples=config.mel_window)
    except PipelineError as error:
        raise UsageError(str(error)) from error
    require(0 <= config.max_failed <= 1, f"--max-failed {config.max_failed}: must be a share, 0 to 1")


def _warnings(scan: Scan, config: Config) -> list[str]:
    warnings = list(scan.warnings)
    if scan.absent:
        listed = config.out / ABSENT_FILE
        warnings.append(f"{len(scan.absent)} files that the corpus' own tables name are not there (listed in {listed})")
    empty = [split for split in config.splits if all(recording.split != split for recording in scan.recordings)]
    if empty:
        warnings.append(f"no recordings in the splits {', '.join(empty)}")
    return warnings


def _source_root(config: Config) -> Path:
    if config.source is None:
        return config.out.with_name(f"{config.out.name}.source").absolute()
    if config.corpus != "synthetic" and not config.source.is_dir():
        raise JobError(f"{config.source}: no such folder; pass the folder of the unpacked corpus")
    return config.source.absolute()


def _settings(config: Config, weights: Path) -> PlanSettings:
    return PlanSettings(
        corpus=config.corpus,
        codec=_fingerprint(weights, config.codebooks, config.precision),
        mel=MelConfig(bands=config.mels, window_samples=config.mel_window),
        segment_frames=max(1, round(config.segment_s * SAMPLE_RATE / HOP_SAMPLES)),
        shard_mb=config.shard_mb,
        splits=tuple(config.splits),
    )


def _fingerprint(weights: Path, codebooks: int, precision: Precision) -> CodecFingerprint:
    """The fingerprint of the codec in a file, taken in a process of its own: this one stays without torch and codec,
    which are three quarters of what it would hold."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(codec_fingerprint, weights, codebooks, precision).result()


def _tasks(
    plan: pa.Table, committed: set[str], root: Path, dataset: Path, settings: PlanSettings
) -> Iterator[ShardTask]:
    """A task for every planned shard that is not there yet."""
    out, segment = dataset.absolute(), settings.segment_frames
    for (split, shard), rows in itertools.groupby(plan.to_pylist(), key=lambda row: (row["split"], row["shard"])):
        if shard not in committed:
            yield ShardTask(split, shard, list(rows), root, out, settings.fingerprint, segment)


def _summary(info: DatasetInfo, dataset: Path) -> str:
    parts = [f"{s}: {t.samples} samples, {t.seconds / 3600:.3f} h, shards: {t.shards}" for s, t in info.splits.items()]
    if info.failed_sources:
        parts.append(f"{info.failed_sources} sources failed ({info.failed_seconds:.1f} s)")
    return f"{dataset}: {' · '.join(parts)}"
