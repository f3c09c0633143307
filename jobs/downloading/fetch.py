"""Download a file over HTTP: continued after any break, tried at several addresses, and checked by its SHA-256."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import requests

from whisper_gpt.jobs.common.errors import JobError
from whisper_gpt.manifests.location import file_sha256

_CHUNK_BYTES = 1 << 16  # what a break loses: `requests` drops a piece that is not complete
_TIMEOUT_S = (10, 60)  # to connect, and between two pieces of the answer
_FRUITLESS_TRIES = 4  # in a row, at one address
_PAUSE_S = 1.0  # after a break that gained something; doubled after each that did not
# Answers that another try may change: timeout, too many requests, and errors of the server.
_PASSING = (408, 429, 500, 502, 503, 504)


class OtherFile(requests.RequestException):
    """The server answers with something that cannot be the file."""


def fetch(urls: list[str], path: Path, sha256: str, show: Callable[[int], None], pause_s: float = _PAUSE_S) -> None:
    """Download one of `urls`, which hold the same file, to `path`; `show` is called with the bytes that are there.

    The file grows as `path`.part, and a later call continues it. An existing `path` is kept if its hash is right.
    Raises `JobError` if no address gives the file with the right hash.
    """
    if path.is_file():
        if file_sha256(path) == sha256:
            return
        raise JobError(f"{path}: another file, or a damaged one (its SHA-256 is not the published one); remove it")
    part, reasons = path.with_name(f"{path.name}.part"), []
    for url in urls:
        continued = part.is_file()
        while True:
            try:
                _fetch_from(url, part, show, pause_s)
            except requests.RequestException as error:
                reasons.append(f"{url}: {_words(error)}")
                break
            if file_sha256(part) == sha256:
                with part.open("rb") as file:
                    os.fsync(file.fileno())
                part.rename(path)
                return
            part.unlink()
            if not continued:
                reasons.append(f"{url}: not the published file (another SHA-256)")
                break
            continued = False  # the part may have been damaged: once more from the start
    kept = f"; {part.name} is kept, a rerun continues it" if part.is_file() else ""
    raise JobError(f"{path.name} could not be downloaded{kept}: {'; '.join(reasons)}")


def _fetch_from(url: str, part: Path, show: Callable[[int], None], pause_s: float) -> None:
    """Complete `part` from one address. Raises `RequestException` after several tries that gained nothing."""
    fruitless, ranges = 0, True
    while True:
        before = _size(part) if ranges else 0
        try:
            if _continue(url, part, before, show):
                return
            ranges = False
        except (OtherFile, requests.exceptions.SSLError, requests.exceptions.InvalidURL):
            raise
        except requests.RequestException as error:
            status = error.response.status_code if error.response is not None else None
            fruitless = 0 if ranges and _size(part) > before else fruitless + 1
            if fruitless == _FRUITLESS_TRIES or (status is not None and status not in _PASSING):
                raise
            time.sleep(pause_s * 2**fruitless)


def _continue(url: str, part: Path, have: int, show: Callable[[int], None]) -> bool:
    """Request the bytes from `have` on and append them to `part`; return False if the server sends another range."""
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        content_range = response.headers.get("Content-Range", "")
        if response.status_code == 416 and content_range == f"bytes */{have}":
            return True  # nothing was missing
        if have and response.status_code in (206, 416) and _first_byte(content_range) != have:
            return False
        response.raise_for_status()
        whole = int(response.headers.get("Content-Length", 0))
        if have and response.status_code == 200 and whole < have:  # such as a page that asks for a password
            raise OtherFile(f"the server answers with {whole:,} bytes, fewer than are there")
        with part.open("ab" if response.status_code == 206 else "wb") as file:
            done = file.tell()
            for chunk in response.iter_content(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                show(done)
    return True


def _first_byte(content_range: str) -> int | None:
    found = re.match(r"bytes (\d+)-", content_range)
    return int(found[1]) if found else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _words(error: requests.RequestException) -> str:
    """Return the reason of a failed request, without the nested representations that `requests` prints."""
    if error.response is not None:
        return f"the server answers {error.response.status_code} {error.response.reason}"
    if isinstance(error, OtherFile | requests.exceptions.SSLError | requests.exceptions.InvalidURL):
        return str(error)
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    return "no connection, or it broke off several times"
