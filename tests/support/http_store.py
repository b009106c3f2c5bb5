"""An object store on loopback: ranges, ETags, latency, and faults on demand.

    with serving({"a.beton": data}) as store:
        store.fault("503", times=2)
        read(f"{store.url}/a.beton")
        assert store.fetched("a.beton") == [(0, 1), (0, 262144)]

The server runs in this process, ends with the block, and answers 127.0.0.1 only.
"""

from __future__ import annotations

import functools
import hashlib
import re
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.remote import disk
from pipelines.remote.errors import RemoteError

LONGEST_HANG = 20.0
"""Seconds after which a hanging request is dropped, so that no test waits for ever."""

CHANGED = "Wed, 21 Oct 2015 07:28:00 GMT"
STATUS = ("500", "503", "429", "403", "404", "401", "412")
BODY = ("reset", "hang", "truncate", "short range", "other range", "whole", "new etag", "bad bytes")


@dataclass(frozen=True)
class Request:
    """A request as the server saw it."""

    method: str
    path: str
    """Without the first slash and the query."""
    range: tuple[int, int] | None
    """Begin and end of the bytes asked for."""
    status: int
    headers: Mapping[str, str]
    query: str = ""


@dataclass
class Fault:
    """What goes wrong with requests whose path ends with ``path``."""

    kind: str
    times: int
    after: int
    """Requests that are served first."""
    path: str


@dataclass
class Answer:
    """A reply of a route: status, headers, body."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class HttpStore:
    """The objects of a server, its faults to come, and the requests it has seen."""

    def __init__(self, objects: Mapping[str, bytes], latency: float) -> None:
        self.objects = dict(objects)
        self.latency = latency
        """Seconds before the first byte of each reply."""
        self.requests: list[Request] = []
        self.routes: list[Callable[[Request], Answer | None]] = []
        """Asked first for a reply to each request."""
        self.url = ""
        self.busiest = 0
        """The most requests that were served at one time."""
        self.closing = threading.Event()
        self.lock = threading.Lock()
        self.serving = 0
        self._faults: list[Fault] = []

    def fault(self, kind: str, times: int = 1, after: int = 0, path: str = "") -> None:
        """Let ``times`` GETs fail, after the first ``after``; ``kind`` is in STATUS or BODY."""
        assert kind in STATUS + BODY, kind
        self._faults.append(Fault(kind, times, after, path))

    def heal(self) -> None:
        """Forget the faults."""
        self._faults.clear()

    def due(self, path: str) -> str:
        """Return the fault of this request, or an empty string."""
        with self.lock:
            for fault in self._faults:
                if path.endswith(fault.path) and fault.times:
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault.kind
        return ""

    def fetched(self, path: str = "") -> list[tuple[int, int]]:
        """Return the ranges of the GETs that succeeded, in the order of their replies."""
        return [
            request.range
            for request in self.requests
            if request.path.endswith(path) and request.range and request.status == 206
        ]


def skip_unless_local(folder: Path) -> None:
    """Skip a test where remote files cannot be kept, as on a network file system."""
    try:
        disk.require_local(folder)
    except RemoteError as error:
        pytest.skip(str(error))


@functools.lru_cache(64)
def etag_of(data: bytes) -> str:
    """Return the ETag of an object."""
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


@contextmanager
def serving(objects: Mapping[str, bytes], latency: float = 0.0) -> Iterator[HttpStore]:
    """Serve these objects, path -> bytes, until the block ends."""
    store = HttpStore(objects, latency)
    handler = type("Handler", (_Handler,), {"store": store})
    server = _Server(("127.0.0.1", 0), handler)
    store.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield store
    finally:
        store.closing.set()
        server.shutdown()
        thread.join()
        server.hang_up()
        server.server_close()


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False  # joined by server_close

    def __init__(self, *args: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed, and replies are cut."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    store: HttpStore

    def log_message(self, *args: Any) -> None:
        """Print nothing."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        store = self.store
        with store.lock:
            store.serving += 1
            store.busiest = max(store.busiest, store.serving)
        try:
            store.closing.wait(store.latency)
            self._reply(body)
        finally:
            with store.lock:
                store.serving -= 1

    def _reply(self, body: bool) -> None:
        store = self.store
        path, _, query = self.path.partition("?")
        path = urllib.parse.unquote(path.lstrip("/"))
        data = store.objects.get(path)
        size = len(data or b"")
        wanted = _range(self.headers.get("Range"), size)
        headers = {name.lower(): value for name, value in self.headers.items()}

        def note(status: int) -> None:
            request = Request(self.command, path, wanted, status, headers, query)
            store.requests.append(request)

        for route in store.routes:
            answer = route(Request(self.command, path, wanted, 0, headers, query))
            if answer is not None:
                note(answer.status)
                return self._send(answer.status, dict(answer.headers), answer.body if body else b"")
        kind = store.due(path) if self.command == "GET" else ""
        if kind in STATUS or data is None:
            status = int(kind) if kind in STATUS else 404
            note(status)
            return self._send(status, {}, b"refused by the test")
        etag = etag_of(data)
        if kind == "new etag":
            etag = '"another"'
        elif self.headers.get("If-Match") not in (None, etag):
            note(412)
            return self._send(412, {}, b"")
        if wanted is None or kind == "whole":
            note(200)
            return self._send(200, {"ETag": etag, "Accept-Ranges": "none"}, data if body else b"")
        begin, end = wanted
        if begin >= size:
            note(416)
            return self._send(416, {"Content-Range": f"bytes */{size}"}, b"")
        self._send_part(kind, data, (begin, end), etag, note)

    def _send_part(
        self, kind: str, data: bytes, part: tuple[int, int], etag: str, note: Callable[[int], None]
    ) -> None:
        """Send a range, or the faulty reply of this kind."""
        begin, end = part
        if kind == "hang":
            note(0)
            self.close_connection = True
            until = time.monotonic() + LONGEST_HANG
            while time.monotonic() < until and not self.store.closing.wait(0.02):
                if _left(self.connection):
                    return
            return
        if kind == "short range":
            end -= (end - begin) // 2
        elif kind == "other range":
            begin, end = (begin - 1, end - 1) if begin else (begin + 1, end + 1)
        content = data[begin:end]
        if kind == "bad bytes":
            content = bytes(len(content))
        headers = {"ETag": etag, "Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}
        if kind not in ("reset", "truncate"):
            note(206)
            return self._send(206, headers, content)
        note(0)
        self._send(206, headers, content[: len(content) // 2], length=len(content))
        self.close_connection = True
        if kind == "reset":  # RST instead of FIN
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _send(
        self, status: int, headers: Mapping[str, str], content: bytes, length: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in ({"Last-Modified": CHANGED} | dict(headers)).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", header or "")
    if not found:
        return None
    return int(found[1]), min(int(found[2]) + 1, size) if found[2] else size


def _left(connection: socket.socket) -> bool:
    """Whether the client has closed the connection."""
    connection.settimeout(0)
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
