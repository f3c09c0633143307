"""Datasets in an object store have the same bytes as in a folder, even from a store that is failing and slow."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import hashes
from whisper_gpt.jobs import cli
from whisper_gpt.jobs.common import lock as output_lock
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.common.lock import LOCK_FILE
from whisper_gpt.jobs.common.lock import output_lock as lock
from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.fragments import committed_shards
from whisper_gpt.manifests.location import location
from whisper_gpt.manifests.publish import publish_bytes, publishing

pytestmark = pytest.mark.usefixtures("ray_cluster")

OPTIONS = ["--codec", "encodec_24khz_small", "--shard-mb=0.4", "--segment-s=5", "--workers=2"]


def test_dataset_in_a_store_equals_one_in_a_folder(
    store: Any, synthetic_corpora: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bucket = store.bucket()
    out = location(bucket / "corpora" / "dataset")
    arguments = ["preprocess", "synthetic", str(synthetic_corpora), "--out", str(out), *OPTIONS]
    assert cli.main(arguments) == 0
    assert hashes(out) == hashes(dataset)
    assert not (out / LOCK_FILE).exists()
    assert cli.main(["verify", str(out)]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["samples"] == 46
    # A run that lost a shard, a fragment and dataset.json resumes.
    (out / "dataset.json").unlink()
    (out / "manifest" / "train-000001.parquet").unlink()
    (out / "test" / "test-000000.tar").unlink()
    assert len(committed_shards(out)) == 5
    assert cli.main(arguments) == 0
    assert hashes(out) == hashes(dataset)


def test_failing_and_slow_store_gives_the_same_bytes(store: Any, synthetic_corpora: Path, tmp_path: Path) -> None:
    bucket, local = store.bucket(), tmp_path / "out"
    for file in sorted((synthetic_corpora / "LibriSpeech").rglob("*.flac"))[:10]:
        (bucket / "source" / file.name).write_bytes(file.read_bytes())
    source, out = str(bucket / "source"), location(bucket / "out")
    assert cli.main(["preprocess", "folder", source, "--out", str(local), *OPTIONS]) == 0
    store.error_share, store.truncated_share, store.delay_s, store.failed = 0.08, 0.05, 0.005, 0
    assert cli.main(["preprocess", "folder", source, "--out", str(out), *OPTIONS]) == 0
    assert store.failed > 10
    store.error_share = store.truncated_share = 0.0
    assert hashes(out) == hashes(local)


def test_truncated_upload_is_an_error(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path = location(store.bucket() / "a" / "file")
    publish_bytes(path, b"as it should be")
    assert path.read_bytes() == b"as it should be"
    monkeypatch.setattr(path.fs, "put_file", lambda local, remote: path.fs.pipe_file(remote, b"cut o"))
    with pytest.raises(ManifestError, match=r"a/file"):
        publish_bytes(path, b"cut off")


def test_failed_write_leaves_no_object(store: Any) -> None:
    path = location(store.bucket() / "a" / "file")
    with pytest.raises(ZeroDivisionError), publishing(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert not path.exists()


def test_lock_excludes_other_runs_and_replaces_dead_ones(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "_RENEWED_EVERY_S", 0.2)
    monkeypatch.setattr(output_lock, "_STALE_AFTER_S", 1.5)
    dataset = location(store.bucket() / "dataset")
    with lock(dataset), pytest.raises(JobError, match=r"another run is writing here \(process"), lock(dataset):
        pass
    assert not (dataset / LOCK_FILE).exists()
    (dataset / LOCK_FILE).write_bytes(b'{"id": "1", "who": "a dead run", "renewed": ""}')
    started = time.monotonic()
    with lock(dataset):
        assert time.monotonic() - started > 1.5
    with lock(dataset) as require_held:
        require_held()
        (dataset / LOCK_FILE).write_bytes(b'{"id": "2", "who": "another", "renewed": ""}')
        time.sleep(0.5)
        with pytest.raises(JobError, match="the lock was lost"):
            require_held()
    assert json.loads((dataset / LOCK_FILE).read_bytes())["id"] == "2"  # another run's lock is not removed
    (dataset / LOCK_FILE).unlink()
    with lock(dataset) as require_held:  # the lock is also lost if the store does not answer for too long
        monkeypatch.setattr(output_lock, "_holder", lambda path: 1 / 0)
        time.sleep(2)
        with pytest.raises(JobError, match="the lock was lost"):
            require_held()
        monkeypatch.undo()


def test_lock_can_be_read_while_its_holder_renews_it(store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_lock, "_RENEWED_EVERY_S", 0.0)
    dataset = location(store.bucket() / "dataset")
    with lock(dataset):
        assert all(output_lock._holder(dataset / LOCK_FILE).keys() >= {"id", "who"} for _ in range(50))


def test_missing_bucket_is_a_one_line_error(store: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert cli.main(["preprocess", "librispeech", "s3://no-such-bucket/x", "--out", out, *OPTIONS]) == 1
    text = capsys.readouterr().err
    assert "s3://no-such-bucket/x: no such folder" in text and text.count("\n") == 1
