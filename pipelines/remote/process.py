"""What all remote files of a process share: the thread that fetches, and the room on the disk."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from pipelines.remote.locks import Locks
from pipelines.remote.loop import Loop
from pipelines.remote.room import Room
from pipelines.remote.transfer import Transfer

_loops: dict[tuple[int, int], Loop] = {}
_rooms: dict[tuple[int, Path, int | None], Room] = {}


_lock = threading.RLock()  # garbage collection may close a file while another is opened


def loop_of(transfer: Transfer, connections: int) -> Loop:
    """Return the thread that fetches, and now serves this file; start it if there is none."""
    key = os.getpid(), connections
    with _lock:
        if key not in _loops or not _loops[key].alive():
            _loops[key] = Loop(connections)
        _loops[key].add(transfer)
        return _loops[key]


def room_of(root: Path, limit: int | None) -> Room:
    """Return the room of a folder of copies, one a process."""
    return _rooms.setdefault((os.getpid(), root, limit), Room(root, limit))


def close(transfer: Transfer, pins: Locks | None, key: tuple[int, int]) -> None:
    """Close a file, unless this is a fork of the process that has it open."""
    if os.getpid() != key[0]:
        return
    loop = _loops.get(key)
    if loop is not None and loop.is_its_thread():  # which collected the file as garbage
        threading.Thread(target=close, args=(transfer, pins, key)).start()
        return
    with _lock:
        loop = _loops.get(key)
        if loop is not None and loop.remove(transfer):
            _loops.pop(key)
        if not _loops:
            while _rooms:
                _rooms.popitem()[1].close()
    transfer.sync()
    transfer.close()
    if pins is not None:
        pins.close()
