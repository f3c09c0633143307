"""Building one shard: a file's error becomes a failure row, the machine's does not, and the bytes are deterministic."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.helpers import hashes, plan_of
from whisper_gpt.manifests.failures import read_failures
from whisper_gpt.manifests.fragments import committed_shards, read_samples
from whisper_gpt.pipeline.codec.causal import Codec
from whisper_gpt.pipeline.codec.fingerprint import CodecFingerprint
from whisper_gpt.pipeline.corpora.recording import SPLITS, Recording
from whisper_gpt.pipeline.errors import PipelineError
from whisper_gpt.pipeline.features.mel import LogMel
from whisper_gpt.pipeline.features.mel_config import MelConfig
from whisper_gpt.pipeline.shards.make import make_shards
from whisper_gpt.pipeline.shards.plan import PlanSettings
from whisper_gpt.pipeline.shards.source import examine
from whisper_gpt.pipeline.shards.task import Progress, ShardJob, ShardTask


def one_shard(source: Path, dataset: Path, recordings: list[Recording]) -> tuple[ShardJob, ShardTask, list[dict]]:
    """The job, task and plan rows that a worker gets for a shard of the `recordings`, next to an unrelated file."""
    if source.is_dir():
        (source / "notes.txt").touch()
    settings = PlanSettings("c", CodecFingerprint("c", "00", 24_000, 320, 8, 1024), MelConfig(), 100, 1.0, SPLITS)
    rows = plan_of([examine(source, recording) for recording in recordings], settings).to_pylist()
    task = ShardTask("plan.parquet", "p", "train", "train-000000", sum(row["seconds"] for row in rows))
    return ShardJob(source, dataset, "f", 100), task, rows


def make_one(source: Path, recordings: list[Recording], codec: Codec, log_mel: LogMel) -> None:
    """Make a shard of the `recordings` in `source`/out."""
    job, task, rows = one_shard(source, source / "out", recordings)
    list(make_shards(job, [(task, rows)], codec, log_mel))


def test_shard_whose_sources_all_fail_has_no_tar(tmp_path: Path, codec: Codec, log_mel: LogMel) -> None:
    job, task, rows = one_shard(tmp_path, tmp_path / "out", [Recording("c_a", "train", "absent.wav")])
    assert list(make_shards(job, [(task, rows)], codec, log_mel)) == [Progress(0.0, 0), Progress(0.0, 1)]
    assert committed_shards(job.dataset) == {"train-000000"} and not list(job.dataset.rglob("*.tar"))
    failure = read_failures(job.dataset).to_pylist()[0]
    assert (failure["stage"], failure["message"], failure["attempts"]) == ("scan", "no such file", 1)
    assert read_samples(job.dataset).num_rows == 0
    # The same task gives the same bytes in another folder.
    job_elsewhere = replace(job, dataset=tmp_path / "again")
    list(make_shards(job_elsewhere, [(task, rows)], codec, log_mel))
    assert hashes(job.dataset) == hashes(job_elsewhere.dataset)


def test_source_changed_since_planning_fails(tmp_path: Path, codec: Codec, log_mel: LogMel) -> None:
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(16_000), 16_000)
    job, task, rows = one_shard(tmp_path, tmp_path / "out", [Recording("c_a", "train", "a.wav")])
    soundfile.write(str(tmp_path / "a.wav"), np.full(16_000, 0.5), 16_000)
    list(make_shards(job, [(task, rows)], codec, log_mel))
    assert "changed since it was planned" in read_failures(job.dataset).to_pylist()[0]["message"]


def test_missing_corpus_is_not_a_failure_of_its_files(tmp_path: Path, codec: Codec, log_mel: LogMel) -> None:
    job, task, rows = one_shard(tmp_path / "not mounted", tmp_path / "out", [])
    with pytest.raises(PipelineError, match="not mounted"):
        list(make_shards(job, [(task, rows)], codec, log_mel))
    assert not job.dataset.exists()
    # Nor is an empty mount point.
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(16_000), 16_000)
    _, task, rows = one_shard(tmp_path, tmp_path / "out", [Recording("c_a", "train", "a.wav")])
    (tmp_path / "not mounted").mkdir()
    with pytest.raises(PipelineError, match="not mounted"):
        list(make_shards(job, [(task, rows)], codec, log_mel))


def test_failures_of_an_earlier_attempt_are_replaced(tmp_path: Path, codec: Codec, log_mel: LogMel) -> None:
    recordings = [Recording("c_a", "train", "a.wav")]
    make_one(tmp_path, recordings, codec, log_mel)
    assert read_failures(tmp_path / "out").num_rows == 1
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(16_000), 16_000)
    make_one(tmp_path, recordings, codec, log_mel)
    assert read_failures(tmp_path / "out").num_rows == 0 and read_samples(tmp_path / "out").num_rows == 1


def test_shards_made_together_have_the_bytes_of_shards_made_alone(
    tmp_path: Path, codec: Codec, log_mel: LogMel
) -> None:
    random = np.random.default_rng(0)
    for name, seconds in zip("abcdefghijklmnop", random.uniform(0.1, 3.0, 16), strict=True):
        soundfile.write(str(tmp_path / f"{name}.wav"), random.uniform(-0.5, 0.5, int(16_000 * seconds)), 16_000)
    (tmp_path / "c.wav").write_bytes(b"damaged")
    recordings = [Recording(f"c_{name}", "train", f"{name}.wav") for name in "abcdefghijklmnop"]
    job, task, rows = one_shard(tmp_path, tmp_path / "together", recordings)
    tasks = [(replace(task, shard=f"train-00000{i}"), rows[i * 4 : i * 4 + 4]) for i in range(4)]
    reports = list(make_shards(job, tasks, codec, log_mel))
    assert sum(report.seconds for report in reports) == pytest.approx(sum(row["seconds"] for row in rows))
    assert [report.published for report in reports] == [*[i for i in range(4) for _ in range(5)][1:], 4]
    alone = replace(job, dataset=tmp_path / "alone")
    for one in tasks:
        list(make_shards(alone, [one], codec, log_mel))
    assert hashes(job.dataset) == hashes(alone.dataset)
    assert read_failures(job.dataset)["source"].to_pylist() == ["c.wav"]
