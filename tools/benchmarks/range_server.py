"""Ranges of one file by HTTP on loopback, with a latency: python -m tools.benchmarks.range_server.

FILE and the seconds before the first byte of each reply are the arguments. The port is printed. The
server ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD with a range of the file, whatever its path."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, *args: Any, file: int, etag: str, latency: float) -> None:
        self.file, self.etag, self.latency = file, etag, latency
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Send a range, or 404 for what is no .beton."""
        time.sleep(self.latency)
        size = os.fstat(self.file).st_size
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not self.path.endswith(".beton") or found is None:
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        begin, end = int(found[1]), min(int(found[2]) + 1, size)
        self.send_response(206)
        self.send_header("ETag", self.etag)
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.end_headers()
        self.wfile.flush()
        while begin < end:
            begin += os.sendfile(self.connection.fileno(), self.file, begin, end - begin)


class Server(ThreadingHTTPServer):
    """A thread a connection."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *args: Any) -> None:
        """Say nothing of connections that the client has closed."""


@contextlib.contextmanager
def serving(file: Path, latency: float) -> Iterator[str]:
    """Serve a file by another process, and yield its URL."""
    command = [sys.executable, "-m", "tools.benchmarks.range_server", str(file), str(latency)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdin is not None and process.stdout is not None
        port = int(process.stdout.readline())
        try:
            yield f"http://127.0.0.1:{port}/{file.name}"
        finally:
            process.stdin.close()


def main(words: list[str]) -> None:
    """Serve until the standard input ends."""
    file = os.open(words[0], os.O_RDONLY)
    etag = f'"{os.fstat(file).st_mtime_ns:x}"'
    handler = partial(Handler, file=file, etag=etag, latency=float(words[1]))
    with Server(("127.0.0.1", 0), handler) as server:
        print(server.server_address[1], flush=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        sys.stdin.read()
        server.shutdown()


if __name__ == "__main__":
    main(sys.argv[1:])
