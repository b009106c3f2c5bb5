"""The remote files of a source."""

from __future__ import annotations

from pipelines.remote.file import RemoteFile
from pipelines.sources.joined import sources_of
from pipelines.sources.source import Source
from pipelines.sources.stored import InFiles


def remote_files(source: Source) -> tuple[RemoteFile, ...]:
    """Return the remote files that hold rows of a source, or of the sources that it joins."""
    stored = [one for one in sources_of(source) if isinstance(one, InFiles)]
    return tuple(file for one in stored for file in one.files if isinstance(file, RemoteFile))
