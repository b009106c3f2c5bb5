"""The remote files of a source, and the end of work that waits for them."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, wait
from typing import Any

from pipelines.remote.file import RemoteFile
from pipelines.sources.joined import Joined
from pipelines.sources.source import Source
from pipelines.sources.stored import InFiles

POLL_SECONDS = 0.1


def remote_files(source: Source) -> tuple[RemoteFile, ...]:
    """Return the remote files that hold rows of a source, or of the sources that it joins."""
    if isinstance(source, InFiles):
        return tuple(file for file in source.files if isinstance(file, RemoteFile))
    if isinstance(source, Joined):
        return tuple(file for part in source.parts for file in remote_files(part.source))
    return ()


def abandon(source: Source, work: Collection[Future[Any]]) -> None:
    """Cancel work on the rows of a source; what runs is waited for, but no bytes that it awaits."""
    for future in work:
        future.cancel()
    left = bool(work)
    while left:
        left = bool(wait(work, POLL_SECONDS).not_done)
        for file in remote_files(source):
            file.interrupt()  # also after the last: what it asked for may be on its way
