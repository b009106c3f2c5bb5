"""A stand-in for the Hugging Face hub: uploads of models, listings and downloads of data sets."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from http_store import Answer, HttpStore, Request

TOKENS = {"hf_writes": "write", "hf_reads": "read"}
"""Tokens of the account that owns the models."""
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Data:
    """A data set."""

    files: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main",)
    gated: bool = False
    token: str = ""
    """What a request must show; empty: nothing."""
    store: HttpStore | None = None
    """Another server, whose objects are the files, at signed URLs; None: the hub itself."""
    signature: int = 1
    """The one that the store accepts now."""
    signed: list[str] = field(default_factory=list)
    """Paths for which a signed URL was given out."""

    def __post_init__(self) -> None:
        if self.store is not None:
            self.files = self.store.objects
            self.store.routes.append(self._check)

    def expire(self) -> None:
        """Let every URL given out so far be refused."""
        self.signature += 1

    def _check(self, request: Request) -> Answer | None:
        assert "authorization" not in request.headers  # the token is for the hub alone
        return None if request.query == f"sig=s{self.signature}%2F" else Answer(403)


class Hub(ThreadingHTTPServer):
    """Models and data sets by name; the account is "me"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        """Of each model, the bytes of its files."""
        self.data: dict[str, Data] = {}
        self.created: list[dict[str, Any]] = []
        self.commits: list[str] = []
        self.full = False  # then it accepts no commit
        self.asked: list[str] = []
        """Each request: method, path, and the first byte that it wants."""
        self.cut_once: int | None = None
        """Bytes after which the connection of the next download is cut."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
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

    def refuse(self, status: int, reason: str, url: str = "", code: str = "") -> None:
        headers = {"X_Error_Message": reason} | ({"X_Error_Code": code} if code else {})
        self.answer({"error": reason, "url": url}, status, **headers)

    def missing(self, status: int = 404) -> None:
        self.refuse(status, "Repository not found", code="RepoNotFound")

    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def first_byte(self) -> int:
        begin = re.fullmatch(r"bytes=(\d+)-\d*", self.headers.get("Range", "bytes=0-"))
        assert begin is not None
        return int(begin[1])

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path.partition("?")[0])
        self.server.asked.append(f"{self.command} {path} {self.first_byte()}")
        if found := re.fullmatch(r"/(?:api/)?datasets/([^/]+/[^/]+)(/.+)?", path):
            self.of_data(found[1], found[2] or "/revision/main")
        else:
            self.of_models(path.strip("/").split("/"))

    do_HEAD = do_GET

    def of_models(self, words: list[str]) -> None:
        role = TOKENS.get(self.token())
        if role is None:
            self.refuse(401, "Invalid credentials in Authorization header")
        elif words[:2] == ["api", "whoami-v2"]:
            account = {"accessToken": {"role": role}}
            self.answer({"type": "user", "name": "me", "orgs": [], "auth": account})
        elif words[:2] == ["api", "models"]:
            name = "/".join(words[2:4])
            known = name in self.server.models
            self.answer({"id": name, "sha": COMMIT, "siblings": []}) if known else self.missing()
        elif words[2:4] == ["resolve", "main"]:
            self.send(self.server.models.get("/".join(words[:2]), {}).get("/".join(words[4:])))
        else:
            self.missing()

    def of_data(self, name: str, rest: str) -> None:
        data = self.server.data.get(name)
        _, what, place = rest.split("/", 2)
        if data is None or (data.token and self.token() != data.token):
            self.missing(401)
        elif what == "revision" and place not in data.revisions:
            self.refuse(404, "Revision not found", code="RevisionNotFound")
        elif what == "revision":
            files = [{"rfilename": path, "size": len(b)} for path, b in data.files.items()]
            self.answer({"id": name, "sha": COMMIT, "siblings": files, "cardData": data.card})
        elif what == "tree":
            self.tree(data)
        elif data.gated:
            self.refuse(403, "Access to it is restricted", code="GatedRepo")
        else:
            commit, _, path = place.partition("/")
            self.resolve(data, path if commit == COMMIT else "")

    def tree(self, data: Data) -> None:
        """Answer with the files in two pages."""
        entries = [{"type": "file", "path": path, "size": 1, "oid": COMMIT} for path in data.files]
        entries.append({"type": "directory", "path": "data", "oid": COMMIT})
        place, _, query = self.path.partition("?")
        if "cursor" in query:
            return self.answer(entries[1:])
        following = f"{self.server.address}{place}?recursive=true&cursor=1"
        return self.answer(entries[:1], Link=f'<{following}>; rel="next"')

    def resolve(self, data: Data, path: str) -> None:
        if data.store is None or path not in data.files:
            return self.send(data.files.get(path))
        data.signed.append(path)
        where = f"{data.store.url}/{path}?sig=s{data.signature}%2F"
        return self.answer(b"", 302, Location=where)

    def send(self, body: bytes | None) -> None:
        """Answer with a file, from the byte that is wanted on."""
        if body is None:
            return self.refuse(404, "Entry not found", code="EntryNotFound")
        first = self.first_byte()
        headers = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X_Repo_Commit": COMMIT}
        if first:
            headers["Content_Range"] = f"bytes {first}-{len(body) - 1}/{len(body)}"
        status = 206 if first else 200
        return self.answer(body[first:], status, Accept_Ranges="bytes", **headers)

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path} 0")
        words = self.path.partition("?")[0].strip("/").split("/")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if words[1:] == ["repos", "create"]:
            self.create(json.loads(body))
        elif words[1] == "validate-yaml":
            wrong = b"license: nonsense" in body
            message = {"message": '"license" must be one of apache-2.0, mit'}
            self.answer({"errors": [message] if wrong else [], "warnings": []}, 400 * wrong or 200)
        elif words[4] == "preupload":
            files = json.loads(body)["files"]
            how = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{"path": file["path"], **how} for file in files]})
        elif self.server.full:
            self.refuse(413, "No space left")  # an error that the client does not try again
        else:
            self.commit("/".join(words[2:4]), body)

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "me":
            self.refuse(403, 'You don\'t have the rights to create a model under "others"')
        elif name in self.server.models:
            self.refuse(409, "You already created this model repo", f"{self.server.address}/{name}")
        else:
            self.server.models[name] = {}
            self.server.created.append(asked)
            self.answer({"url": f"{self.server.address}/{name}"})

    def commit(self, name: str, body: bytes) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.server.commits.append(value["summary"])
            else:
                content = base64.b64decode(value["content"])
                self.server.models[name][value["path"]] = content
        where = f"{self.server.address}/{name}/commit/{COMMIT}"
        self.answer({"success": True, "commitOid": COMMIT, "commitUrl": where})


@contextmanager
def serve() -> Iterator[Hub]:
    """Serve a hub without content until the block ends."""
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


def point_to(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Make an address the endpoint of the hub's client."""
    from huggingface_hub import constants

    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
