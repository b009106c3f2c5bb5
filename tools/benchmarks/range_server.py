"""A server of a folder on 127.0.0.1 that answers like an object store, with a latency by name.

``GET /ms020/a.beton`` waits 20 ms and then sends ``a.beton``, or a range of it. A request of S3 is
the same, with the bucket ``ms020``; nobody's signature is checked. It ends when its stdin does.

    python -m tools.benchmarks.range_server FOLDER      # prints its port
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PATH = re.compile(r"/ms(\d{3})/(.+)")
RANGE = re.compile(r"bytes=(\d+)-(\d*)")
PIECE = 1 << 20


class Handler(BaseHTTPRequestHandler):
    """One connection, which stays open."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16

    def __init__(self, folder: Path, *args: Any) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_HEAD(self) -> None:
        """Send the size and the ETag."""
        self._answer(body=False)

    def do_GET(self) -> None:
        """Send a file, or one range of it."""
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        asked = PATH.fullmatch(urllib.parse.unquote(urllib.parse.urlsplit(self.path).path))
        path = (self.folder / asked[2]).resolve() if asked else self.folder
        if asked is None or not path.is_relative_to(self.folder) or not path.is_file():
            self._head(404, {"Content-Length": "0"})
            return
        time.sleep(int(asked[1]) / 1e3)
        facts = path.stat()
        begin, end = 0, facts.st_size
        given = RANGE.fullmatch(self.headers.get("Range", ""))
        if given:
            begin, end = int(given[1]), min(int(given[2] or end) + 1, end)
        if begin >= end and facts.st_size:
            self._head(416, {"Content-Length": "0"})
            return
        headers = {
            "Content-Length": str(end - begin),
            "Accept-Ranges": "bytes",
            "ETag": f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"',
            "Last-Modified": self.date_time_string(int(facts.st_mtime)),
        }
        if given:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{facts.st_size}"
        self._head(206 if given else 200, headers)
        if body:
            self._send(path, begin, end)

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def _send(self, path: Path, begin: int, end: int) -> None:
        with path.open("rb") as file:
            file.seek(begin)
            while begin < end:
                piece = file.read(min(PIECE, end - begin))
                if not piece:  # it was cut while it was sent
                    self.close_connection = True
                    return
                self.wfile.write(piece)
                begin += len(piece)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 256


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder from a process of its own; the context is its http://HOST:PORT."""
    line = [sys.executable, "-m", "tools.benchmarks.range_server", str(folder)]
    with subprocess.Popen(
        line, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.stdin.close()
            process.wait()


def main() -> None:
    """Serve until stdin ends."""
    folder = Path(sys.argv[1]).resolve()
    with Server(("127.0.0.1", 0), partial(Handler, folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_address[1], flush=True)
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main()
