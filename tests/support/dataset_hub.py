"""A stand-in for the data sets of the Hugging Face hub: listings, and files that are downloaded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "c" * 40


@dataclass
class Data:
    """A data set."""

    files: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False


class DataHub(ThreadingHTTPServer):
    """Data sets by name; ``asked`` has each request, with the first byte that it wants."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.data: dict[str, Data] = {}
        self.asked: list[str] = []
        self.cut_once: int | None = None
        """Bytes after which the connection of the next download is cut."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: DataHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = None
        if "/resolve/" in self.path:
            cut, self.server.cut_once = self.server.cut_once, None
        self.close_connection = cut is not None
        self.wfile.write(body[:cut])

    def refuse(self, code: str, status: int = 404) -> None:
        self.answer(b"{}", status, X_Error_Code=code, X_Error_Message=code)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        begin = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", "bytes=0-"))
        assert begin is not None
        first = int(begin[1])
        self.server.asked.append(f"{self.command} {path} {first}")
        listed = re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        stored = re.fullmatch(rf"/datasets/([^/]+/[^/]+)/resolve/{COMMIT}/(.+)", path)
        name = (listed or stored or [""] * 2)[1]
        data = self.server.data.get(name)
        if data is None:
            self.refuse("RepoNotFound", 401)
        elif listed and (listed[2] or "main").replace("%2F", "/") not in data.revisions:
            self.refuse("RevisionNotFound")
        elif listed:
            files = [{"rfilename": name, "size": len(b)} for name, b in data.files.items()]
            content = {"id": name, "sha": COMMIT, "siblings": files, "cardData": data.card}
            self.answer(json.dumps(content).encode())
        elif data.gated:
            self.refuse("GatedRepo", 403)
        else:
            assert stored is not None
            body = data.files[stored[2]]
            headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X_Repo_Commit": COMMIT}
            if first:
                headers["Content_Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
            self.answer(body[first:], 206 if first else 200, Accept_Ranges="bytes", **headers)

    do_HEAD = do_GET


@contextmanager
def serve() -> Iterator[DataHub]:
    with DataHub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
