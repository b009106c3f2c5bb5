"""``jit``: numba's ``njit`` without the interpreter's lock, cached on disk.

numba's own cache notices a change in the file of a function, but not in the files of the functions
that it calls, and would run outdated machine code. Here the name of the cache folder is a digest of
all files of ``pipelines`` that hold compiled functions.

With ``take_next``, threads share the rows of a batch without a static split.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, no_type_check

from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic

from pipelines.system.cache import cache_root


def _cache_folder() -> Path | None:
    """Return the cache folder of these sources' machine code; None: none can be written."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        text = path.read_bytes()
        if b"pipelines.system.jit" in text or path == Path(__file__):
            digest.update(text)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unmix"
    for place in (home, cache_root()):
        folder = place / "numba" / digest.hexdigest()[:16]
        with suppress(OSError):  # a read-only home
            folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    return None


FOLDER = _cache_folder()


def jit(function: Callable[..., Any]) -> Any:
    """Compile on first use; floats may be reassociated, but NaN and infinity keep their meaning.

    Put ``typing.no_type_check`` below this decorator. Otherwise the run-time type checker of the
    tests would wrap the function that numba compiles.
    """
    flags = {"nsz", "arcp", "contract", "afn", "reassoc"}
    before = vars(config)["CACHE_DIR"]
    vars(config)["CACHE_DIR"] = str(FOLDER or "")
    try:
        return njit(nogil=True, cache=FOLDER is not None, fastmath=flags)(function)
    finally:
        vars(config)["CACHE_DIR"] = before


@intrinsic
@no_type_check
def take_next(typingctx, counter):
    """Increment ``counter[0]`` atomically; return its value before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", array.data, one, "monotonic")

    return types.int64(counter), generate


@intrinsic
@no_type_check
def pointer(typingctx, address):
    """Return an address, an unsigned integer of 64 bits, as a pointer, for ``numba.carray``."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(address), generate
