"""An HTTP server on loopback with one file per path, and faults on demand."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """A file and what goes wrong with it; `requests` notes the Range header of each request."""

    data: bytes
    breaks_after: list[int] = field(default_factory=list)  # bytes sent before the connection is cut, per request
    ranges: str = "right"  # or "ignored", "shifted" (another range than asked), "lied" (other bytes than it says)
    pause_s: float = 0.0  # between pieces
    statuses: list[int] = field(default_factory=list)  # errors to answer the first requests with
    requests: list[str] = field(default_factory=list)


@contextmanager
def serving(files: dict[str, Served]) -> Iterator[str]:
    """Serve `files` by their name; yield the address of their folder."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served = files.get(self.path.removeprefix("/"))
            if served is None:
                self.send_error(404)
                return
            asked = self.headers.get("Range", "")
            served.requests.append(asked)
            if served.statuses:
                self.send_error(served.statuses.pop(0))
                return
            _send(self, served, int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _send(handler: BaseHTTPRequestHandler, served: Served, first: int) -> None:
    size = len(served.data)
    if first >= size and served.ranges != "ignored":
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{size}")
        handler.send_header("Content-Length", "0")
        handler.end_headers()
        return
    partial = first > 0 and served.ranges != "ignored"
    said = {"shifted": 0}.get(served.ranges, first) if partial else 0
    body = served.data[: size - said] if served.ranges == "lied" else served.data[said:]
    handler.send_response(206 if partial else 200)
    if partial:
        handler.send_header("Content-Range", f"bytes {said}-{size - 1}/{size}")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    cut = served.breaks_after.pop(0) if served.breaks_after else len(body)
    for start in range(0, cut, 10_000):
        handler.wfile.write(body[start : min(cut, start + 10_000)])
        handler.wfile.flush()
        time.sleep(served.pause_s)
    handler.close_connection = True
