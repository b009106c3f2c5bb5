"""The number of files that this process may have open: a memory map keeps its file open."""

from __future__ import annotations

import resource

RESERVE = 1024
"""Open files that everything else may need: sockets, libraries, worker processes."""
REMOTE = 8
"""Open files of a remote file: its copy, its map, its record, its locks, also of the evicting."""


def allow_open_files(count: int, what: str) -> None:
    """Raise this process's limit, which is often 1,024, so that it can open ``count`` more files.

    Raises:
        ValueError: the system's own limit is lower; the text has ``what`` and the command.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted, most = count + RESERVE, resource.RLIM_INFINITY
    if soft == most or soft >= wanted:
        return
    if hard != most and hard < count:
        raise ValueError(
            f"{what} takes {count:,} open files, and a process of this user may have {hard:,}: let "
            f"the administrator raise the limit (ulimit -Hn {wanted}), or use fewer, larger files"
        )
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (wanted if hard == most else min(wanted, hard), hard)
    )
