"""``hf://datasets/ORG/NAME[@REVISION]/PATH``: files of the Hugging Face Hub as signed URLs.

A revision is resolved to its commit once a process, so that all reads see one version. A large
file is served by another host, at a URL with a signature that expires: ``locate`` is asked again
when that host refuses it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.remote import errors
from pipelines.remote.errors import RemoteError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

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
        return _commit(_endpoint(), self.repo, self.revision)


def parse(url: str) -> HubFile:
    """Return the parts of an ``hf://`` URL.

    Raises:
        RemoteError: it is no file of a data set.
    """
    form = r"(?i:hf)://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)"
    found = re.fullmatch(form, url)
    if not found:
        raise RemoteError(f"{url}: files of the Hub are hf://datasets/ORG/NAME/PATH")
    revision = urllib.parse.unquote(found[2] or "main")  # refs%2Fconvert%2Fparquet
    return HubFile(found[1], revision, found[3])


def locate(url: str) -> tuple[str, dict[str, str]]:
    """Return where the file's bytes are now, and the headers to send there.

    Raises:
        RemoteError: no access, no such file, no answer.
    """
    from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url

    file, home, token = parse(url), _endpoint(), get_token()
    with _in_words(url):
        asked = hf_hub_url(
            file.repo, file.path, repo_type="dataset", revision=file.commit, endpoint=home
        )
        at = get_hf_file_metadata(asked, token=token, timeout=TIMEOUT, endpoint=home).location
    if token is None or _host(at) != _host(asked):
        return at, {}  # signed; the token is for the Hub alone
    return at, {"Authorization": f"Bearer {token}"}


def files(url: str) -> list[str]:
    """Return the URLs of the files below the folder ``hf://datasets/ORG/NAME/FOLDER``."""
    from huggingface_hub.hf_api import RepoFile

    folder = parse(url + "/.")
    inside = folder.path.removesuffix(".").rstrip("/")
    root = url.removesuffix(f"/{inside}") if inside else url
    with _in_words(url):
        entries = _api(_endpoint()).list_repo_tree(
            folder.repo,
            inside or None,
            recursive=True,
            revision=folder.commit,
            repo_type="dataset",
        )
        return [f"{root}/{entry.path}" for entry in entries if isinstance(entry, RepoFile)]


def _endpoint() -> str | None:
    """Return the address of another Hub, from ``$HF_ENDPOINT``; None: the public one."""
    return os.environ.get("HF_ENDPOINT")


def _api(home: str | None) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(endpoint=home)


@functools.lru_cache
def _commit(home: str | None, repo: str, revision: str) -> str:
    with _in_words(f"hf://datasets/{repo}"):
        return str(_api(home).dataset_info(repo, revision=revision, timeout=TIMEOUT).sha)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc


@contextlib.contextmanager
def _in_words(url: str) -> Iterator[None]:
    """Turn the client's errors into sentences that lead on.

    Raises:
        RemoteError: for each of them.
    """
    from huggingface_hub.errors import HfHubHTTPError

    no_answer: Any = (*HfHubHTTPError.__bases__, OSError)  # of the HTTP client that it uses
    try:
        yield
    except HfHubHTTPError as error:
        status: Any = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise errors.no_access(url, "hf", error) from None
        if status == 404:
            raise errors.not_found(url, "hf") from None
        raise errors.failed(url, error) from None
    except no_answer as error:
        raise errors.failed(url, error) from None
