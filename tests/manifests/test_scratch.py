"""Scratch folders are removed after use, and stale ones of dead processes are cleaned up."""

import tempfile
from pathlib import Path

import pytest

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.scratch import remove_stale_scratch, scratch_folder


def test_only_scratch_of_dead_processes_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as scratch:
        (scratch / "file").touch()
        stale = scratch.with_name(scratch.name.replace(scratch.name.split("-")[-2], "4999999", 1))
        stale.mkdir()
        unrelated = tmp_path / "whisper-gpt-bench-x"
        unrelated.mkdir()
        remove_stale_scratch()
        assert scratch.is_dir() and unrelated.is_dir() and not stale.exists()
    assert not scratch.exists()


def test_missing_temporary_folder_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(ManifestError, match="temporary"), scratch_folder():
        pass
