"""Hundreds of damaged files: each becomes samples or one failure row, no second is lost, and memory stays bounded."""

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from whisper_gpt.jobs import cli
from whisper_gpt.manifests.failures import read_failures
from whisper_gpt.manifests.fragments import read_samples

Mutation = Callable[[bytes, np.random.Generator], bytes]


def flip_bits(data: bytes, random: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for at in random.integers(0, len(data), random.integers(1, 30)):
        damaged[at] ^= 1 << random.integers(8)
    return bytes(damaged)


def truncate(data: bytes, random: np.random.Generator) -> bytes:
    return data[: random.integers(0, len(data))]


def corrupt_header(data: bytes, random: np.random.Generator) -> bytes:
    damaged = bytearray(data)
    for at in random.integers(4, 44, random.integers(1, 5)):
        damaged[at] = random.integers(256)
    return bytes(damaged)


def declare_huge_size(data: bytes, random: np.random.Generator) -> bytes:
    """Change FLAC's 36-bit count of samples, or the sizes of WAV's RIFF and data chunks."""
    damaged = bytearray(data)
    if data[:4] == b"fLaC":
        total = int(random.choice([2**36 - 1, 2**35, 2**32 + 5]))
        damaged[21] = (damaged[21] & 0xF0) | total >> 32
        damaged[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
        return bytes(damaged)
    size = int(random.choice([0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFF0]))
    for at in (4, data.index(b"data") + 4):
        damaged[at : at + 4] = struct.pack("<I", size)
    return bytes(damaged)


def zero_bytes(data: bytes, random: np.random.Generator) -> bytes:
    begin, end = sorted(random.integers(0, len(data), 2))
    return data[:begin] + bytes(int(end - begin)) + data[end:]


MUTATIONS: list[Mutation] = [flip_bits, truncate, corrupt_header, declare_huge_size, zero_bytes]


def write_damaged(good: list[Path], folder: Path, count: int) -> None:
    """Write `count` mutations of the files in turn; every sixth also gets a wrong extension, or only that."""
    random = np.random.default_rng(0)
    for i in range(count):
        path = good[i % len(good)]
        data = path.read_bytes()
        suffix = path.suffix
        if i % 6 == 5:
            suffix = {".flac": ".wav", ".wav": ".flac"}[suffix]
        if i % 12 != 11:
            data = MUTATIONS[i % len(MUTATIONS)](data, random)
        (folder / f"{i:04d}{suffix}").write_bytes(data)


def check_preprocessing(folder: Path, out: Path, limit_mb: int) -> tuple[int, int]:
    """Preprocess, compare the output with the plan, and return how many files became samples and how many failed."""
    options = ["--codec", "encodec_24khz_small", "--workers=2", "--shard-mb=1", "--max-failed=1"]
    assert cli.main(["preprocess", "folder", str(folder), "--out", str(out), *options]) == 0
    planned = planned_seconds(out)
    sampled: dict[str, float] = {}
    for row in read_samples(out, columns=["source", "duration_s"]).to_pylist():
        sampled[row["source"]] = sampled.get(row["source"], 0.0) + row["duration_s"]
    failed = {row["source"]: row["seconds"] for row in read_failures(out).to_pylist()}
    assert not sampled.keys() & failed.keys()
    assert sampled.keys() | failed.keys() == planned.keys() == {path.name for path in folder.iterdir()}
    assert all(abs(seconds - planned[name]) < 1e-3 for name, seconds in sampled.items())
    assert sum(planned.values()) == pytest.approx(sum(sampled.values()) + sum(failed.values()), abs=1e-3 * len(planned))
    assert cli.main(["verify", str(out)]) == 0
    assert peak_memory_mb(folder, out) < limit_mb
    return len(sampled), len(failed)


def planned_seconds(out: Path) -> dict[str, float]:
    from whisper_gpt.jobs.preprocessing.planning import read_parts

    (part,) = read_parts(out)
    return {row["path"]: row["seconds"] for row in part.read(["path", "seconds"]).to_pylist()}


def peak_memory_mb(folder: Path, out: Path) -> int:
    """Memory that one process with the codec loaded needs in addition to rebuild all shards."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from whisper_gpt.jobs.preprocessing.planning import load_rows, read_parts, shard_tasks\n"
        "from whisper_gpt.pipeline.shards.make import make_shards\n"
        "from whisper_gpt.pipeline.shards.task import ShardJob\n"
        "from whisper_gpt.pipeline.codec.loading import load_codec\n"
        "from whisper_gpt.pipeline.features.mel import LogMel\n"
        "from whisper_gpt.pipeline.features.mel_config import MelConfig\n"
        "codec, mel = load_codec('encodec_24khz_small'), LogMel(MelConfig())\n"
        "list(codec.encode(__import__('numpy').zeros((8, 24000), 'float32')))\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "out = Path(sys.argv[2]); job = ShardJob(Path(sys.argv[1]), Path(sys.argv[3]), 'f', 2250)\n"
        "for task in shard_tasks(read_parts(out)):\n"
        "    plan = ShardJob(job.source, out, 'f', 2250)\n"
        "    list(make_shards(job, [(task, load_rows(plan, task))], codec, mel))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    arguments = [sys.executable, "-c", script, str(folder), str(out), str(out.with_name("again"))]
    completed = subprocess.run(arguments, capture_output=True, text=True, check=True)
    return int(completed.stdout.split()[-1]) // (1024 if sys.platform == "linux" else 1 << 20)


@pytest.mark.usefixtures("ray_cluster")
def test_damaged_synthetic_files_become_samples_or_failures(tmp_path: Path) -> None:
    good, damaged = tmp_path / "good", tmp_path / "damaged"
    good.mkdir()
    damaged.mkdir()
    formats = [("a.flac", 16_000, 1, None), ("b.wav", 16_000, 1, None), ("c.wav", 44_100, 2, "PCM_24")]
    for name, rate, channels, subtype in [*formats, ("d.wav", 48_000, 1, "FLOAT"), ("e.flac", 44_100, 2, "PCM_24")]:
        noise = np.random.default_rng(1).standard_normal((rate // 2, channels)) * 0.1
        soundfile.write(str(good / name), noise, rate, subtype)
    write_damaged(sorted(good.iterdir()), damaged, 120)
    sampled, failed = check_preprocessing(damaged, tmp_path / "out", limit_mb=150)
    assert sampled > 10 and failed > 30


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_damaged_real_files_become_samples_or_failures(real_data: Path, tmp_path: Path) -> None:
    good, damaged = tmp_path / "good", tmp_path / "damaged"
    good.mkdir()
    damaged.mkdir()
    by_size = sorted((real_data / "LibriSpeech").rglob("*.flac"), key=lambda path: path.stat().st_size)
    for i, path in enumerate(by_size[:40]):
        (good / f"{i:02d}.flac").write_bytes(path.read_bytes())
        samples, rate = soundfile.read(str(path))
        soundfile.write(str(good / f"{i:02d}.wav"), samples, rate)
    write_damaged(sorted(good.iterdir()), damaged, 500)
    sampled, failed = check_preprocessing(damaged, tmp_path / "out", limit_mb=250)
    print(f"500 damaged files: {sampled} became samples, {failed} failure rows")
    assert sampled > 50 and failed > 100
