"""``compiled``: numba's ``njit`` without the interpreter's lock, kept on disk between runs.

numba's own cache notices a change of the file a function stands in, but not of the files whose
functions it calls, and would run old machine code. Here the folder's name is a digest of every
source file of ``pipelines``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


def _cache_folder() -> Path:
    """The compiled code of exactly these sources."""
    package = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.read_bytes())
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "unmix" / "numba" / digest.hexdigest()[:16]


FOLDER = _cache_folder()


def compiled(function: Callable[..., Any]) -> Any:
    """Compile on first use; floats may be reassociated, but NaN and infinity keep their meaning.

    Put ``typing.no_type_check`` below it: the run-time checker of the tests would otherwise hand
    numba its wrapper.
    """
    flags = {"nsz", "arcp", "contract", "afn", "reassoc"}
    before, numba.config.CACHE_DIR = numba.config.CACHE_DIR, str(FOLDER)
    try:
        return numba.njit(nogil=True, cache=True, fastmath=flags)(function)
    finally:
        numba.config.CACHE_DIR = before
