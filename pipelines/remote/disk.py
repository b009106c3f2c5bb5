"""The disk below a cache of sparse files: holes, and whether it can be used."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from pipelines.remote.errors import RemoteError
from pipelines.remote.locks import locks

_libc = ctypes.CDLL(None, use_errno=True)
_KEEP_SIZE, _PUNCH_HOLE = 1, 2  # fallocate(2)

NETWORK = {
    0x6969: "NFS", 0xFF534D42: "CIFS", 0xFE534D42: "SMB", 0x0BD00BD0: "Lustre", 
    0x47504653: "GPFS", 0x00C36400: "Ceph", 0x01021997: "9p", 0x19830326: "BeeGFS", 0x517B: "SMB",
}  # fmt: skip
"""Numbers of file systems of other machines (statfs(2)), whose locks and holes are not local."""


def require_local(folder: Path) -> None:
    """Check that holes can be punched in files here, and that locks are this machine's.

    Raises:
        RemoteError: a network file system, or one that keeps no sparse files.
    """
    probe = folder / f".probe-{os.getpid()}.tmp"
    try:
        kind = NETWORK.get(_file_system(folder))
        handle = os.open(probe, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, 1 << 16)
            punch(handle, 0, 1 << 16)
            with locks(probe) as held:
                held.exclusive((0, 1))
        finally:
            os.close(handle)
            probe.unlink(missing_ok=True)
    except OSError as error:
        kind = error.strerror or str(error)
    if kind:
        raise RemoteError(
            f"{folder}: no place for a cache of remote files ({kind}): it needs a local disk, with "
            "sparse files and locks. --cache-dir names another folder"
        )


def punch(handle: int, begin: int, end: int) -> None:
    """Free the blocks of these bytes, which read as zeros then.

    Raises:
        OSError: the file system cannot.
    """
    mode, size = ctypes.c_int(_KEEP_SIZE | _PUNCH_HOLE), ctypes.c_int64(end - begin)
    if _libc.fallocate(handle, mode, ctypes.c_int64(begin), size):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def free_bytes(folder: Path) -> int:
    """Return the bytes that may still be written to a folder's disk."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def _file_system(folder: Path) -> int:
    """Return the number of the file system's kind."""
    buffer = ctypes.create_string_buffer(256)  # struct statfs, which starts with f_type
    if _libc.statfs(os.fsencode(folder), buffer):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return ctypes.c_ulong.from_buffer(buffer).value & 0xFFFFFFFF
