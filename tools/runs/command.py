"""How every command ends: one line and an exit status instead of a traceback."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable

from pipelines.sources.image_file import BadImage


def command(name: str, body: Callable[[], int | None]) -> int:
    """Run the body of the command ``name``, as "tools/report.py"; return the exit status.

    ======================================  ======  ==========================
    The body                                status  on stderr
    ======================================  ======  ==========================
    returns a status, or None for success   status
    ValueError, OSError, BadImage           2       ``NAME: reason``
    KeyboardInterrupt                       130     ``NAME: interrupted``
    BrokenPipeError (``| head``)            1
    ======================================  ======  ==========================

    Flags that do not parse end with 2 too: tyro and argparse raise ``SystemExit``, which passes.
    """
    try:
        status = body() or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        discard_output()
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    except (ValueError, OSError, BadImage) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def discard_output() -> None:
    """Send the rest of stdout nowhere: Python flushes it at exit, into the closed pipe."""
    with contextlib.suppress(OSError):  # stdout need not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
