"""``hf://datasets/ORG/NAME[@REVISION]/PATH``: files of the Hugging Face Hub as signed URLs.

A revision is resolved to its commit once a process, so that all reads see one version. A large
file is served by another host, at a URL with a signature that expires: ``locate`` is asked again
when that host refuses it.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.remote import errors
from pipelines.remote.errors import RemoteError

TIMEOUT = 30.0
"""Seconds that the Hub may take to answer."""


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on the Hub."""

    repo: str
    """ORG/NAME."""
    revision: str
    path: str

    @property
    def commit(self) -> str:
        """The commit that the revision stands for, asked once a process."""
        return _commit(endpoint(), self.repo, self.revision)


def parse(url: str) -> HubFile:
    """Return the parts of an ``hf://`` URL.

    Raises:
        RemoteError: it is no file of a data set.
    """
    form = r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)"
    found = re.fullmatch(form, url)
    if not found:
        raise RemoteError(f"{url}: files of the Hub are hf://datasets/ORG/NAME/PATH")
    revision = urllib.parse.unquote(found[2] or "main")  # refs%2Fconvert%2Fparquet
    return HubFile(found[1], revision, found[3])


def endpoint() -> str:
    """Return the Hub's address: ``$HF_ENDPOINT``, else the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def headers() -> dict[str, str]:
    """Return the header of ``$HF_TOKEN``, or of the token that ``hf auth login`` saved."""
    token = os.environ.get("HF_TOKEN", "").strip()
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    saved = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    if not token and saved.is_file():
        token = saved.read_text("utf-8").strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


def locate(url: str) -> tuple[str, dict[str, str]]:
    """Return where the file's bytes are now, and the headers to send there.

    Raises:
        RemoteError: no access, no such file, no answer.
    """
    file = parse(url)
    path = f"/datasets/{file.repo}/resolve/{file.commit}/{urllib.parse.quote(file.path)}"
    home = endpoint()
    at = home + path
    for _ in range(5):
        answer = _ask(url, at, "HEAD")
        if answer.status not in (301, 302, 303, 307, 308):
            return at, headers()
        at = urllib.parse.urljoin(at, answer.headers["Location"])
        if urllib.parse.urlsplit(at).netloc != urllib.parse.urlsplit(home).netloc:
            return at, {}  # signed; the token is for the Hub alone
    raise RemoteError(f"{url}: the Hub redirects without end")


def files(url: str) -> list[str]:
    """Return the URLs of the files below the folder ``hf://datasets/ORG/NAME/FOLDER``."""
    file = parse(url + "/.")
    folder = urllib.parse.quote(file.path.removesuffix(".").rstrip("/"))
    at: str | None = f"{endpoint()}/api/datasets/{file.repo}/tree/{file.commit}/{folder}".rstrip(
        "/"
    )
    at = f"{at}?recursive=true"
    root = url[: len(url) + 2 - len(file.path)].rstrip("/")
    found = []
    while at:
        answer = _ask(url, at, "GET")
        entries = json.loads(answer.body)
        found += [f"{root}/{entry['path']}" for entry in entries if entry["type"] == "file"]
        following = re.search(r'<([^>]+)>;\s*rel="next"', answer.headers.get("Link", ""))
        at = following[1] if following else None
    return found


@functools.lru_cache
def _commit(home: str, repo: str, revision: str) -> str:
    url = f"hf://datasets/{repo}"
    quoted = urllib.parse.quote(revision, safe="")
    answer = _ask(url, f"{home}/api/datasets/{repo}/revision/{quoted}", "GET")
    return str(json.loads(answer.body)["sha"])


@dataclass(frozen=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any) -> None:
        """Follow none: the caller looks at them."""


def _ask(url: str, at: str, method: str) -> _Answer:
    opener = urllib.request.build_opener(_NoRedirect)
    request = urllib.request.Request(at, method=method, headers=headers())
    try:
        with opener.open(request, timeout=TIMEOUT) as reply:
            return _Answer(reply.status, dict(reply.headers), reply.read())
    except urllib.error.HTTPError as error:
        with error:
            if error.code < 400:
                return _Answer(error.code, dict(error.headers), b"")
            if error.code == 404:
                raise errors.not_found(url, "hf") from None
            if error.code in (401, 403):
                raise errors.no_access(url, "hf", error) from None
            raise errors.failed(url, error) from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        raise errors.failed(url, error) from None
