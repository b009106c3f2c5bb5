"""The remote files of a source."""

from __future__ import annotations

from pipelines.remote.file import RemoteFile
from pipelines.sources.joined import Joined
from pipelines.sources.source import Source
from pipelines.sources.stored import InFiles


def remote_files(source: Source) -> tuple[RemoteFile, ...]:
    """Return the remote files that hold rows of a source, or of the sources that it joins."""
    if isinstance(source, InFiles):
        return tuple(file for file in source.files if isinstance(file, RemoteFile))
    if isinstance(source, Joined):
        return tuple(file for part in source.parts for file in remote_files(part.source))
    return ()
