"""The end of every command: one line and an exit status instead of a traceback."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Sequence


def command(name: str, body: Callable[[], int | None]) -> int:
    """Run the body of the command ``name``, such as "tools/report.py"; return the exit status.

    ======================================  ======  ==========================
    The body                                status  on stderr
    ======================================  ======  ==========================
    returns a status, or None for success   status
    ValueError, OSError, BadImage           2       ``NAME: reason``
    KeyboardInterrupt                       130     ``NAME: interrupted``
    BrokenPipeError (``| head``)            1
    ======================================  ======  ==========================

    Flags that do not parse also give 2: tyro and argparse raise ``SystemExit``, which propagates.
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
    except refusals() as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2


def refusals() -> tuple[type[Exception], ...]:
    """Return the exceptions that mean a bad request.

    ``BadImage`` is among them once its module is loaded; tools/doctor.py runs without its packages.
    """
    images = sys.modules.get("pipelines.sources.image_file")
    return (ValueError, OSError, *([images.BadImage] if images else []))


def discard_output() -> None:
    """Discard the rest of stdout, which Python would flush into the closed pipe at exit."""
    with contextlib.suppress(OSError):  # stdout may not be a file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def by_position(words: Sequence[str]) -> list[str]:
    """Replace ``--run RUN`` and ``--output OUTPUT`` in a command line by positional arguments.

    RUN becomes the first argument and OUTPUT the last.
    """
    rest: list[str] = []
    named: dict[str, list[str]] = {"--run": [], "--output": []}
    arguments = iter(words)
    for word in arguments:
        flag, equals, value = word.partition("=")
        if flag in named:
            named[flag] += [value] if equals else list(itertools.islice(arguments, 1))
        else:
            rest.append(word)
    return [*named["--run"], *rest, *named["--output"]]
