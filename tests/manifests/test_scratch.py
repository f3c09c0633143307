"""Scratch folders: gone after use, and those of dead processes swept."""

import tempfile
from pathlib import Path

import pytest

from whisper_gpt.manifests.errors import ManifestError
from whisper_gpt.manifests.scratch import remove_stale_scratch, scratch_folder


def test_scratch_of_dead_processes_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_folder() as own:
        (own / "file").touch()
        dead = own.with_name(own.name.replace(own.name.split("-")[-2], "4999999", 1))
        dead.mkdir()
        others = tmp_path / "whisper-gpt-bench-x"
        others.mkdir()
        remove_stale_scratch()
        assert own.is_dir() and others.is_dir() and not dead.exists()
    assert not own.exists()


def test_no_free_space_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with pytest.raises(ManifestError, match="temporary"), scratch_folder():
        pass
