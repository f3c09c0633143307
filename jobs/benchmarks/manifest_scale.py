"""Measure wall time and memory of `inspect`, `query` and `explore` on a manifest of a million rows.

Each runs in its own process. Of `explore`: from the process's start to the first page, the page alone, a filtered one.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from whisper_gpt.jobs.benchmarks.timing import Timing, timing_of
from whisper_gpt.jobs.common.errors import JobError, require
from whisper_gpt.manifests.dataset_info import FILE_NAME, info_bytes
from whisper_gpt.manifests.describe import describe
from whisper_gpt.manifests.fragments import ShardRecord, fragment_bytes, fragment_path
from whisper_gpt.manifests.publish import publish_bytes
from whisper_gpt.manifests.schema import SAMPLES

_CODEBOOKS, _CODEWORDS, _BANDS = 8, 1024, 64
_CONDITION = "speaker = 19 and duration_s > 10"


@dataclass(frozen=True)
class Config:
    """Options of `whisper-gpt bench manifest`."""

    rows: int = 1_000_000
    """Number of rows in the manifest."""
    shards: int = 1_500
    """Number of shards, and so of fragments, that hold the rows."""
    rounds: int = 3
    """Number of rounds; the median is reported."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class ManifestScale:
    """Wall time in seconds and peak memory in MB of a process, from start to end (`explore`: to its first page)."""

    inspect_s: Timing
    inspect_mb: Timing
    query_s: Timing
    query_mb: Timing
    explore_first_s: Timing
    explore_page_s: Timing
    explore_filter_s: Timing
    explore_mb: Timing
    rows: int
    shards: int


def run(config: Config) -> int:
    """Write a manifest (without tars), measure and print; return exit code 0."""
    require(1 <= config.shards <= config.rows, f"--shards {config.shards}: must be 1 to --rows")
    require(config.rounds >= 1, f"--rounds {config.rounds}: must be at least 1")
    if find_spec("streamlit") is None:
        raise JobError("it measures explore too, which needs Streamlit: pip install 'whisper-gpt[explore]'")
    with tempfile.TemporaryDirectory(prefix="whisper-gpt-bench-") as folder:
        dataset = Path(folder)
        write_manifest(dataset, config.rows, config.shards)
        inspect_runs = [_timed("inspect", str(dataset), "--json") for _ in range(config.rounds)]
        query_runs = [_timed("query", str(dataset), _CONDITION) for _ in range(config.rounds)]
        explore_runs = [_explored(dataset) for _ in range(config.rounds)]
    result = ManifestScale(
        inspect_s=timing_of([seconds for seconds, _ in inspect_runs]),
        inspect_mb=timing_of([megabytes for _, megabytes in inspect_runs]),
        query_s=timing_of([seconds for seconds, _ in query_runs]),
        query_mb=timing_of([megabytes for _, megabytes in query_runs]),
        explore_first_s=timing_of([run["first_s"] for run in explore_runs]),
        explore_page_s=timing_of([run["page_s"] for run in explore_runs]),
        explore_filter_s=timing_of([run["filter_s"] for run in explore_runs]),
        explore_mb=timing_of([run["mb"] for run in explore_runs]),
        rows=config.rows,
        shards=config.shards,
    )
    if config.json:
        print(json.dumps(asdict(result)))
        return 0
    table = Table(f"{config.rows:,} rows in {config.shards:,} fragments", "median", "least", "most")
    for name in (field.name for field in fields(ManifestScale) if field.name not in ("rows", "shards")):
        numbers = vars(getattr(result, name)).values()
        table.add_row(name.replace("_", " "), *(f"{number:.2f}" for number in numbers))
    Console(highlight=False).print(table)
    return 0


def write_manifest(dataset: Path, rows: int, shards: int) -> None:
    """Write the manifest and `dataset.json` of a speech corpus: `rows` samples of 1 to 30 s, by 2,000 speakers."""
    random = np.random.default_rng(0)
    counts = random.integers(0, 50, (_CODEBOOKS, _CODEWORDS))
    per_shard = np.diff(np.linspace(0, rows, shards + 1).astype(int))
    for index, count in enumerate(per_shard):
        shard = f"train-{index:06d}"
        samples = _rows(shard, index, int(count), random)
        record = ShardRecord(
            shard=shard,
            split="train",
            sha256="0" * 64,
            size_bytes=int(count) * 150_000,
            fingerprint="made",
            plan_sha256="0" * 64,
            samples=int(count),
            frames=sum(row["frames"] for row in samples),
            seconds=sum(row["duration_s"] for row in samples),
            mel_sums=random.standard_normal((2, 1, _BANDS)),
            code_counts=counts,
        )
        publish_bytes(fragment_path(dataset, shard), fragment_bytes(samples, record))
    codec = {"name": "made", "weights_sha256": "0" * 64, "sample_rate": 24_000, "hop_samples": 320}
    codec |= {"codebooks": _CODEBOOKS, "codebook_size": _CODEWORDS}
    mel = {"bands": _BANDS, "window_samples": 1024, "hop_samples": 320, "sample_rate": 24_000, "floor": 1e-10}
    info = describe(
        dataset,
        corpus="made",
        fingerprint="made",
        codec=codec,
        mel={**mel, "variants": ["audio"]},
        segment_frames=2250,
        plans_sha256=["0" * 64],
        absent_sources=0,
    )
    publish_bytes(dataset / FILE_NAME, info_bytes(info))


def _rows(shard: str, index: int, count: int, random: np.random.Generator) -> list[dict]:
    empty = {field.name: "" if pa.types.is_string(field.type) else 0 for field in SAMPLES}
    rows = []
    for i, seconds in enumerate(random.uniform(1, 30, count)):
        samples, speaker = int(seconds * 24_000), str(random.integers(2_000))
        source = f"train-clean-360/{speaker}/{index}/{speaker}-{index}-{i:04d}.flac"
        rows.append(
            empty
            | {
                "key": f"made_{shard}_{i:06d}_0000",
                "corpus": "made",
                "split": "train",
                "shard": shard,
                "frames": -(-samples // 320),
                "samples": samples,
                "duration_s": samples / 24_000,
                "source": source,
                "source_sha256": random.bytes(32).hex(),
                "peak_dbfs": float(random.uniform(-20, 0)),
                "rms_dbfs": float(random.uniform(-40, -15)),
                "speaker": speaker,
                "text": " ".join(["WORDS"] * int(seconds * 2.5)),
                "codes_sha256": random.bytes(32).hex(),
                "mel_sha256": random.bytes(32).hex(),
            }
        )
    return rows


def _timed(*arguments: str) -> tuple[float, float]:
    """Seconds and megabytes that a verb takes."""
    begun = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "whisper_gpt.jobs.cli", *arguments], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise JobError(f"whisper-gpt {arguments[0]} failed")
    return time.monotonic() - begun, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _explored(dataset: Path) -> dict[str, float]:
    """Return seconds and megabytes of `explore`."""
    probe = [sys.executable, "-m", "whisper_gpt.jobs.benchmarks.explore_probe", str(dataset), _CONDITION]
    done = subprocess.run(probe, capture_output=True, text=True)
    if done.returncode:
        raise JobError(f"whisper-gpt explore failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.strip().splitlines()[-1])
