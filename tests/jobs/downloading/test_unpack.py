"""Archives unpack inside the folder, or not at all."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.downloading.unpack import unpack


def tar(path: Path, name: str, kind: bytes = tarfile.REGTYPE) -> Path:
    with tarfile.open(path, "w:gz") as packed:
        info = tarfile.TarInfo(name)
        info.type, info.size, info.linkname = kind, 5 if kind == tarfile.REGTYPE else 0, "/etc/passwd"
        packed.addfile(info, io.BytesIO(b"bytes"))
    return path


def zipped(path: Path, name: str, mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        packed.writestr(info, b"bytes")
    return path


@pytest.mark.parametrize("make", [tar, zipped])
def test_files_are_unpacked_over_older_ones(tmp_path: Path, make) -> None:
    archive, shown = make(tmp_path / ("a.zip" if make is zipped else "a.tar.gz"), "corpus/1/file.flac"), []
    (tmp_path / "to" / "corpus" / "1").mkdir(parents=True)
    (tmp_path / "to" / "corpus" / "1" / "file.flac").write_bytes(b"half")
    unpack(archive, tmp_path / "to", shown.append)
    assert (tmp_path / "to" / "corpus" / "1" / "file.flac").read_bytes() == b"bytes" and shown == [5]


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "..\\outside"])
@pytest.mark.parametrize("make", [tar, zipped])
def test_paths_that_lead_outside_are_refused(tmp_path: Path, make, name: str) -> None:
    archive = make(tmp_path / ("a.zip" if make is zipped else "a.tar.gz"), name)
    with pytest.raises(JobError, match="outside"):
        unpack(archive, tmp_path / "to", lambda _: None)
    assert [path.name for path in tmp_path.rglob("*")] == [archive.name]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(JobError, match="is a link, a device"):
        unpack(tar(tmp_path / "a.tar.gz", "name", kind), tmp_path / "to", lambda _: None)
    with pytest.raises(JobError, match="is a link, a device"):
        unpack(zipped(tmp_path / "a.zip", "name", 0o120777), tmp_path / "to", lambda _: None)


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
def test_a_damaged_archive_is_one_line(tmp_path: Path, name: str) -> None:
    archive = zipped(tmp_path / name, "file") if name == "a.zip" else tar(tmp_path / name, "file")
    archive.write_bytes(archive.read_bytes()[:60])
    with pytest.raises(JobError, match="damaged"):
        unpack(archive, tmp_path / "to", lambda _: None)
