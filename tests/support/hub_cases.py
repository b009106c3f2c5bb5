"""A stand-in for the Hugging Face hub: the requests that one upload and one download make."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKENS = {"hf_writes": "write", "hf_reads": "read"}
COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Models by name, each a dictionary from file names to bytes; the account is "me"."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.models: dict[str, dict[str, bytes]] = {}
        self.created: list[dict[str, Any]] = []
        self.commits: list[str] = []
        self.full = False  # then it accepts no commit
        self.asked: list[str] = []

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
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, reason: str, url: str = "", **headers: str) -> None:
        self.answer({"error": reason, "url": url}, status, X_Error_Message=reason, **headers)

    def missing(self) -> None:
        self.refuse(404, "Repository not found", X_Error_Code="RepoNotFound")

    def accepted(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def do_GET(self) -> None:
        self.server.asked.append(f"{self.command} {self.path}")
        words = self.path.partition("?")[0].strip("/").split("/")
        if not self.accepted():
            self.refuse(401, "Invalid credentials in Authorization header")
        elif words[:2] == ["api", "whoami-v2"]:
            role = {"accessToken": {"role": self.accepted()}}
            self.answer({"type": "user", "name": "me", "orgs": [], "auth": role})
        elif words[:2] == ["api", "models"]:
            name = "/".join(words[2:4])
            known = name in self.server.models
            self.answer({"id": name, "sha": COMMIT, "siblings": []}) if known else self.missing()
        elif words[2:4] == ["resolve", "main"]:
            held = self.server.models.get("/".join(words[:2]), {}).get("/".join(words[4:]))
            if held is None:
                self.refuse(404, "Entry not found", X_Error_Code="EntryNotFound")
            else:
                etag = hashlib.sha1(held).hexdigest()
                self.answer(held, ETag=f'"{etag}"', X_Repo_Commit=COMMIT)
        else:
            self.missing()

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.server.asked.append(f"POST {self.path}")
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
    with Hub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
