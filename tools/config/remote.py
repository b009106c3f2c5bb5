"""Settings of data in a bucket or on a web server: how it is fetched, and where it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.ranges import Count, Positive
from tools.config.section import Section, free

if TYPE_CHECKING:
    from pipelines.remote.file import RemoteOptions


@dataclass(frozen=True)
class RemoteConfig(Section):
    """Remote ``--data`` (s3, gs, az, http, https, hf): fetched while training, kept on a disk."""

    title = "remote"
    cache_dir: Path | None = free(None)
    """Folder on a local disk for fetched data, kept below remote/ in it; None: UNMIX_CACHE."""
    cache_size: Positive | None = free(None)
    """GB that fetched data may take there; None: all of it, if the disk has room for the files."""
    fetch_connections: Count = free(32)
    """Requests to a store in flight at a time, for each process."""


def remote_options(config: RemoteConfig) -> RemoteOptions:
    """Return how the remote files of a run are fetched and kept."""
    from pipelines.remote.file import RemoteOptions
    from pipelines.system.cache import cache_root

    size = None if config.cache_size is None else round(config.cache_size * 1e9)
    folder = config.cache_dir or cache_root()
    return RemoteOptions(folder.expanduser(), size, config.fetch_connections)
