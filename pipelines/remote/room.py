"""Room for remote files: a size for all copies of a cache, kept by removing unused pieces.

All processes of a machine share the size. Whoever fetches asks for room first, under a lock, by
counting the pieces of all copies: no counter can go wrong when a process is killed.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipelines.remote import disk
from pipelines.remote.errors import RemoteError
from pipelines.remote.locks import Run, locks
from pipelines.remote.record import ABSENT
from pipelines.remote.sparse import PIECE, SparseFile, open_folder
from pipelines.system import cache
from pipelines.system.units import size_text

log = logging.getLogger(__name__)

SLACK = 64
"""Removal goes on below the limit by this part of it, so that it is rare."""
AHEAD = 600.0
"""Seconds for which a piece that is expected to be needed counts as just used."""
RECENT = 1_000_000_000
"""Nanoseconds after a change in which another may have the same time."""


class Room:
    """The room that the copies below a folder may take; None is no limit."""

    def __init__(self, root: Path, limit: int | None) -> None:
        self.root, self.limit = root, limit
        self._copies: dict[str, SparseFile] = {}
        self._listed = -1
        self.exceeded = 0
        """Bytes that one step needed beyond the limit, at most."""

    def reserve(self, file: SparseFile, run: Run, needed: bool, force: bool) -> bool | None:
        """Reserve the absent pieces of a claimed run; remove the least recently used for them.

        ``needed`` pieces are waited for, so they may replace pieces that are expected to be
        needed later. They exceed the limit with ``force``: steps may pin more than that. Returns
        whether there is room; None if a later look may find it.
        """
        if self.limit is None:
            return True
        with locks(self.root / "room.lock") as mine:
            if not mine.exclusive((0, 1)):
                return None
            files = self._files()
            state = file.record.state[slice(*run)]
            need = int((state == ABSENT).sum()) * file.identity.piece
            over = self._taken(files) + need - self.limit
            if over > 0:
                until = None if needed else time.time()
                over -= self._remove(files, over + self.limit // SLACK // PIECE * PIECE, until)
            if over > 0 and not (needed and force):
                return None if needed else False
            if over > 0 and not self.exceeded:
                log.warning(
                    "--cache-size %s is less than one step needs; it is exceeded for a while",
                    size_text(self.limit),
                )
            self.exceeded = max(self.exceeded, over)
            file.reserve(run)
            return True

    def close(self) -> None:
        """Close the copies."""
        for copy in self._copies.values():
            copy.close()
        self._copies.clear()
        self._listed = -1

    def _files(self) -> list[SparseFile]:
        """Return the copies below the folder, which is listed again when it has changed."""
        changed = self.root.stat().st_mtime_ns
        if changed == self._listed:
            return list(self._copies.values())
        recent = time.time_ns() - changed < RECENT
        self._listed = -1 if recent else changed
        names = {path.parent.name for path in self.root.glob("*/meta.json")}
        for gone in self._copies.keys() - names:
            self._copies.pop(gone).close()
        for name in sorted(names - self._copies.keys()):
            with contextlib.suppress(OSError, ValueError, KeyError):
                self._copies[name] = open_folder(self.root / name)
        return list(self._copies.values())

    def _taken(self, files: list[SparseFile]) -> int:
        return sum(f.identity.piece * int(np.count_nonzero(f.record.state)) for f in files)

    def _remove(self, files: list[SparseFile], size: int, until: float | None) -> int:
        """Remove pieces last used before ``until``, the longest unused first; return the bytes."""
        kept = [np.flatnonzero(file.record.state) for file in files]
        used = np.concatenate([f.record.used[k] for f, k in zip(files, kept, strict=True)])
        which = np.repeat(np.arange(len(files)), [len(k) for k in kept])
        piece = np.concatenate(kept)
        gone = 0
        for at in np.argsort(used, kind="stable"):
            if gone >= size or (until is not None and used[at] > until):
                break
            file = files[which[at]]
            file.record.will_evict()
            if file.remove(int(piece[at])):
                gone += file.identity.piece
        return gone


def remove_outdated(root: Path, opened: Mapping[str, tuple[str, Path]]) -> None:
    """Remove copies of other versions that nobody has open; URL -> (server, folder) of the new."""
    for meta in root.glob("*/meta.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(meta.read_text("utf-8"))
            url, folder = found["url"], meta.parent
            endpoint, kept = opened.get(url, ("", folder))
            is_another = found.get("endpoint", endpoint) != endpoint  # server; old copies name none
            if kept != folder and not is_another and cache.remove(folder):
                log.info("removed the copy of an older version of %s", url)


def require_room(root: Path, title: str, files: list[tuple[Path, int]]) -> None:
    """Check that the rest of these sparse files, path and size, fits the disk.

    Raises:
        RemoteError: it does not.
    """
    missing = sum(max(0, size - path.stat().st_blocks * 512) for path, size in files)
    free = disk.free_bytes(root)
    if missing > free:
        raise RemoteError(
            f"{title}: {size_text(missing)} are still to be fetched, and the disk of {root} has "
            f"{size_text(free)} left. --cache-size, with --order blocks, keeps a part there; "
            "--cache-dir names another folder"
        )
