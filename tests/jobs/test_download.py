"""`download` ends in a folder that `preprocess` takes; a rerun does nothing."""

import hashlib
import io
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.jobs.downloading.faulty_server import Served, serving
from whisper_gpt.jobs import cli
from whisper_gpt.pipeline.corpora.archives import ARCHIVES

FILE = "LibriSpeech/dev-clean/19/198/19-198-0001.flac"


def packed() -> bytes:
    buffer, sound = io.BytesIO(), io.BytesIO()
    soundfile.write(sound, np.zeros(16_000), 16_000, format="FLAC")
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(FILE)
        info.size = len(sound.getvalue())
        archive.addfile(info, io.BytesIO(sound.getvalue()))
    return buffer.getvalue()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Served]]:
    """A server with a small dev-clean, and its registration in place of the published one."""
    archive = Served(packed(), breaks_after=[100])
    small = replace(
        ARCHIVES["librispeech"]["dev-clean"],
        size=len(archive.data),
        unpacked_size=2 * len(archive.data),
        sha256=hashlib.sha256(archive.data).hexdigest(),
    )
    monkeypatch.setitem(ARCHIVES["librispeech"], "dev-clean", small)
    with serving({"dev-clean.tar.gz": archive}) as server:
        yield server, archive


def test_download_unpacks_what_preprocess_takes(tmp_path: Path, served: tuple[str, Served]) -> None:
    server, archive = served
    arguments = ["download", "librispeech", "dev-clean", "--to", str(tmp_path), "--mirror", server]
    assert cli.main(arguments) == 0
    assert (tmp_path / FILE).is_file() and not list(tmp_path.rglob("*.tar.gz"))
    assert len(archive.requests) == 2  # it broke off once
    options = ["--out", str(tmp_path / "dataset"), "--codec", "encodec_24khz_small", "--workers=0"]
    assert cli.main(["preprocess", "librispeech", str(tmp_path / "LibriSpeech"), *options]) == 0
    assert cli.main(arguments) == 0
    assert len(archive.requests) == 2
    shutil.rmtree(tmp_path / "LibriSpeech")
    assert cli.main([*arguments, "--keep-archives"]) == 0
    assert (tmp_path / FILE).is_file() and (tmp_path / ".downloads" / "dev-clean.tar.gz").is_file()


def test_a_part_whose_unpacking_was_killed_is_unpacked_again(
    tmp_path: Path, served: tuple[str, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["download", "librispeech", "dev-clean", "--to", str(tmp_path), "--mirror", served[0]]
    assert cli.main(arguments) == 0
    (tmp_path / "LibriSpeech" / "dev-clean").rename(tmp_path / "away")

    def killed(archive: Path, folder: Path, show: object) -> None:
        (folder / "LibriSpeech" / "dev-clean").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("whisper_gpt.jobs.download.unpack", killed)
        assert cli.main(arguments) == 1
    assert not (tmp_path / FILE).exists()
    assert cli.main(arguments) == 0
    assert (tmp_path / FILE).is_file()


def test_errors_are_one_line(tmp_path: Path, served: tuple[str, Served], capsys: pytest.CaptureFixture[str]) -> None:
    server, archive = served
    arguments = ["download", "librispeech", "--to", str(tmp_path / "to"), "--mirror", server]
    assert cli.main(arguments) == 2 and "train-clean-100 (6.39 GB)" in capsys.readouterr().err
    assert cli.main([*arguments, "dev-dirty"]) == 2 and "dev-dirty: not a part" in capsys.readouterr().err
    assert cli.main([*arguments[:-1], "my.host/x", "dev-clean"]) == 2 and "http://" in capsys.readouterr().err
    archive.data = b"a page that asks for a password"
    assert cli.main([*arguments, "dev-clean"]) == 1
    assert f"{server}/dev-clean.tar.gz: not the published file" in capsys.readouterr().err
    assert not (tmp_path / "to" / "LibriSpeech").exists()


def test_a_full_disk_is_seen_before_the_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, 10**11))
    assert cli.main(["download", "maestro", "audio", "--to", str(tmp_path), "--mirror", "http://127.0.0.1:9"]) == 1
    assert "239.00 GB are needed and 100.00 GB are free" in capsys.readouterr().err


def test_every_archive_has_a_hash_and_an_encrypted_address() -> None:
    for archives in ARCHIVES.values():
        for archive in archives.values():
            assert len(bytes.fromhex(archive.sha256)) == 32 and archive.size <= archive.unpacked_size
            assert archive.mirrors and all(mirror.startswith("https://") for mirror in archive.mirrors)
