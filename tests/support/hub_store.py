"""A Hugging Face Hub on loopback: commits, listings, and large files at signed URLs elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from http_store import Answer, HttpStore, Request

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Routes of the Hub for one data set, whose large files ``files`` serves."""

    files: HttpStore
    """Another server: its objects are the files, by their path in the data set."""
    repo: str = "org/name"
    token: str = ""
    """What a request must show; empty: nothing."""
    signature: int = 1
    """The one that the file server accepts now."""
    signed: list[str] = field(default_factory=list)
    """Paths for which a signed URL was given out."""

    def __post_init__(self) -> None:
        self.files.routes.append(self._check)

    def expire(self) -> None:
        """Let every URL given out so far be refused."""
        self.signature += 1

    def route(self, request: Request) -> Answer | None:
        """Answer as the Hub does."""
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return Answer(401)
        if request.path == f"api/datasets/{self.repo}/revision/main":
            return Answer(200, json.dumps({"id": self.repo, "sha": COMMIT}).encode())
        if request.path.startswith(f"api/datasets/{self.repo}/tree/{COMMIT}"):
            return self._tree(request)
        prefix = f"datasets/{self.repo}/resolve/{COMMIT}/"
        path = request.path.removeprefix(prefix)
        if request.path == path or path not in self.files.objects:
            return Answer(404)
        self.signed.append(path)
        return Answer(302, b"", {"Location": f"{self.files.url}/{path}?sig=s{self.signature}%2F"})

    def _tree(self, request: Request) -> Answer:
        """Return the files in two pages."""
        entries = [
            {"type": "file", "path": path, "size": 1, "oid": COMMIT}
            for path in sorted(self.files.objects)
        ]
        entries.append({"type": "directory", "path": "data", "oid": COMMIT})
        if "cursor" in request.query:
            return Answer(200, json.dumps(entries[1:]).encode())
        following = f"http://{request.headers['host']}/{request.path}?recursive=true&cursor=1"
        link = {"Link": f'<{following}>; rel="next"'}
        return Answer(200, json.dumps(entries[:1]).encode(), link)

    def _check(self, request: Request) -> Answer | None:
        assert "authorization" not in request.headers  # the token is for the Hub alone
        return None if request.query == f"sig=s{self.signature}%2F" else Answer(403)
