"""Downloads continue after breaks, and end in the published file or in a clear error."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.jobs.downloading.faulty_server import Served, serving
from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.jobs.downloading.fetch import fetch

DATA = np.random.default_rng(0).bytes(400_000)
SHA256 = hashlib.sha256(DATA).hexdigest()


def fetched(path: Path, *servers: str) -> bytes:
    fetch([f"{server}/file" for server in servers], path, SHA256, lambda _: None, pause_s=0)
    assert not path.with_name("file.part").exists()
    return path.read_bytes()


def test_a_download_continues_where_the_connection_broke(tmp_path: Path) -> None:
    served = Served(DATA, breaks_after=[70_000, 140_000])
    with serving({"file": served}) as server:
        assert fetched(tmp_path / "file", server) == DATA
    assert served.requests == ["", "bytes=65536-", "bytes=196608-"]


def test_a_later_run_continues_a_part(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:8000])
    served = Served(DATA)
    with serving({"file": served}) as server:
        assert fetched(tmp_path / "file", server) == DATA
    assert served.requests == ["bytes=8000-"]


def test_a_complete_part_is_only_checked(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA)
    with serving({"file": Served(DATA)}) as server:
        assert fetched(tmp_path / "file", server) == DATA


@pytest.mark.parametrize("ranges", ["ignored", "shifted", "lied"])
def test_servers_that_send_other_ranges(tmp_path: Path, ranges: str) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:8000])
    with serving({"file": Served(DATA, ranges=ranges)}) as server:
        assert fetched(tmp_path / "file", server) == DATA


@pytest.mark.parametrize("part", [b"other bytes" * 100, b"more than the file" * 40_000])
def test_a_part_of_another_file_is_discarded(tmp_path: Path, part: bytes) -> None:
    (tmp_path / "file.part").write_bytes(part)
    with serving({"file": Served(DATA)}) as server:
        assert fetched(tmp_path / "file", server) == DATA


def test_a_slow_server_is_waited_for_and_a_busy_one_asked_again(tmp_path: Path) -> None:
    with serving({"file": Served(DATA, pause_s=0.001, statuses=[503, 429])}) as server:
        assert fetched(tmp_path / "file", server) == DATA


def test_a_wrong_byte_is_an_error_and_the_next_mirror_is_tried(tmp_path: Path) -> None:
    wrong = bytes([DATA[0] ^ 1]) + DATA[1:]
    with serving({"file": Served(wrong)}) as bad, serving({"file": Served(DATA)}) as good:
        with pytest.raises(JobError, match="not the published file"):
            fetched(tmp_path / "file", bad)
        assert not list(tmp_path.iterdir())  # a rerun must not continue it
        assert fetched(tmp_path / "file", bad, good) == DATA


def test_a_server_that_always_breaks_off_is_given_up_and_the_part_kept(tmp_path: Path) -> None:
    with serving({"file": Served(DATA, breaks_after=[70_000, 0, 0, 0, 0])}) as server:
        with pytest.raises(JobError, match=r"file\.part is kept, a rerun continues it"):
            fetched(tmp_path / "file", server)
        assert (tmp_path / "file.part").read_bytes() == DATA[:65536]
        assert fetched(tmp_path / "file", server) == DATA


def test_a_server_without_ranges_that_breaks_off_is_given_up(tmp_path: Path) -> None:
    served = Served(DATA, ranges="shifted", breaks_after=[70_000] * 20)
    with serving({"file": served}) as server, pytest.raises(JobError, match="broke off"):
        fetched(tmp_path / "file", server)


def test_a_page_instead_of_the_file_does_not_cost_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(DATA[:300_000])
    page = Served(b"please log in".ljust(1000), ranges="ignored")
    with serving({"file": page}) as portal, serving({"file": Served(DATA)}) as server:
        with pytest.raises(JobError, match=r"file\.part is kept.*1,000 bytes, fewer than are there"):
            fetched(tmp_path / "file", portal)
        assert fetched(tmp_path / "file", portal, server) == DATA


def test_a_missing_file_is_reported_at_once(tmp_path: Path) -> None:
    with serving({}) as server, pytest.raises(JobError, match="the server answers 404 Not Found"):
        fetched(tmp_path / "file", server)
    with pytest.raises(JobError, match="no connection"):
        fetched(tmp_path / "file", "http://127.0.0.1:9")  # the discard port: nothing listens


def test_an_existing_file_is_kept_only_if_it_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    fetch([], tmp_path / "file", SHA256, lambda _: None)
    (tmp_path / "file").write_bytes(DATA[1:])
    with pytest.raises(JobError, match="remove it"):
        fetch([], tmp_path / "file", SHA256, lambda _: None)
    assert (tmp_path / "file").read_bytes() == DATA[1:]
