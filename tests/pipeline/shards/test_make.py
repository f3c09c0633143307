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
from whisper_gpt.pipeline.shards.make import make_shard
from whisper_gpt.pipeline.shards.plan import PlanSettings
from whisper_gpt.pipeline.shards.source import examine
from whisper_gpt.pipeline.shards.task import ShardJob, ShardTask


def one_shard(source: Path, dataset: Path, recordings: list[Recording]) -> tuple[ShardJob, ShardTask, list[dict]]:
    """The job, task and plan rows that a worker gets for a shard of the `recordings`, next to an unrelated file."""
    if source.is_dir():
        (source / "notes.txt").touch()
    settings = PlanSettings("c", CodecFingerprint("c", "00", 24_000, 320, 8, 1024), MelConfig(), 100, 1.0, SPLITS)
    rows = plan_of([examine(source, recording) for recording in recordings], settings).to_pylist()
    task = ShardTask("plan.parquet", "p", "train", "train-000000", sum(row["seconds"] for row in rows))
    return ShardJob(source, dataset, "f", 100), task, rows


def test_shard_whose_sources_all_fail_has_no_tar(tmp_path: Path, codec: Codec, log_mel: LogMel) -> None:
    job, task, rows = one_shard(tmp_path, tmp_path / "out", [Recording("c_a", "train", "absent.wav")])
    assert list(make_shard(job, task, rows, codec, log_mel)) == [0.0]
    assert committed_shards(job.dataset) == {"train-000000"} and not list(job.dataset.rglob("*.tar"))
    failure = read_failures(job.dataset).to_pylist()[0]
    assert (failure["stage"], failure["message"], failure["attempts"]) == ("scan", "no such file", 1)
    assert read_samples(job.dataset).num_rows == 0
    # The same task gives the same bytes in another folder.
    job_elsewhere = replace(job, dataset=tmp_path / "again")
    list(make_shard(job_elsewhere, task, rows, codec, log_mel))
    assert hashes(job.dataset) == hashes(job_elsewhere.dataset)


def test_source_changed_since_planning_fails(tmp_path: Path, codec: Codec, log_mel: LogMel) -> None:
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(16_000), 16_000)
    job, task, rows = one_shard(tmp_path, tmp_path / "out", [Recording("c_a", "train", "a.wav")])
    soundfile.write(str(tmp_path / "a.wav"), np.full(16_000, 0.5), 16_000)
    list(make_shard(job, task, rows, codec, log_mel))
    assert "changed since it was planned" in read_failures(job.dataset).to_pylist()[0]["message"]


def test_missing_corpus_is_not_a_failure_of_its_files(tmp_path: Path, codec: Codec, log_mel: LogMel) -> None:
    job, task, rows = one_shard(tmp_path / "not mounted", tmp_path / "out", [])
    with pytest.raises(PipelineError, match="not mounted"):
        list(make_shard(job, task, rows, codec, log_mel))
    assert not job.dataset.exists()
    # Nor is an empty mount point.
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(16_000), 16_000)
    _, task, rows = one_shard(tmp_path, tmp_path / "out", [Recording("c_a", "train", "a.wav")])
    (tmp_path / "not mounted").mkdir()
    with pytest.raises(PipelineError, match="not mounted"):
        list(make_shard(job, task, rows, codec, log_mel))


def test_failures_of_an_earlier_attempt_are_replaced(tmp_path: Path, codec: Codec, log_mel: LogMel) -> None:
    recordings = [Recording("c_a", "train", "a.wav")]
    list(make_shard(*one_shard(tmp_path, tmp_path / "out", recordings), codec, log_mel))
    assert read_failures(tmp_path / "out").num_rows == 1
    soundfile.write(str(tmp_path / "a.wav"), np.zeros(16_000), 16_000)
    list(make_shard(*one_shard(tmp_path, tmp_path / "out", recordings), codec, log_mel))
    assert read_failures(tmp_path / "out").num_rows == 0 and read_samples(tmp_path / "out").num_rows == 1
