"""``jit``: numba's ``njit`` without the interpreter's lock, kept on disk between runs.

numba's own cache notices a change of the file a function stands in, but not of the files whose
functions it calls, and would run old machine code. Here the folder's name is a digest of all
files of ``pipelines`` that hold compiled functions.

``take_next`` is how threads share the rows of a batch without a static split.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, no_type_check

from llvmlite import ir
from numba import config, njit, types
from numba.extending import intrinsic


def _cache_folder() -> Path:
    """Where the machine code of exactly these sources is kept."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        text = path.read_bytes()
        if b"pipelines.system.jit" in text or path == Path(__file__):
            digest.update(text)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "unmix" / "numba" / digest.hexdigest()[:16]


FOLDER = _cache_folder()


def jit(function: Callable[..., Any]) -> Any:
    """Compile on first use; floats may be reassociated, but NaN and infinity keep their meaning.

    Put ``typing.no_type_check`` below it: the run-time checker of the tests would otherwise hand
    numba its wrapper.
    """
    flags = {"nsz", "arcp", "contract", "afn", "reassoc"}
    before = vars(config)["CACHE_DIR"]
    vars(config)["CACHE_DIR"] = str(FOLDER)
    try:
        return njit(nogil=True, cache=True, fastmath=flags)(function)
    finally:
        vars(config)["CACHE_DIR"] = before


@intrinsic
@no_type_check
def take_next(typingctx, counter):
    """``counter[0]++`` as one atomic step; returns the value before."""

    def generate(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", array.data, one, "monotonic")

    return types.int64(counter), generate
