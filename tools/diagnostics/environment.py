"""Imported first by a command that runs as a script: its packages must be there.

Python puts the folder of a script first on the path. For tools/*.py that would be ``tools``; this
module puts the root of the checkout there instead, so that a command runs from any checkout.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("numpy", "torch", "accelerate", "tyro", "PIL")


def missing_package(script: Path) -> str | None:
    """Return the reason why ``script`` cannot start, with the remedy, or None."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if not missing:
        return None
    if not (ROOT / ".venv").exists() or Path(sys.prefix) == ROOT / ".venv":
        remedy = f"run 'make install', then .venv/bin/python {script}"
    else:
        activate = "activate the environment (source .venv/bin/activate)"
        remedy = f"{activate} or run .venv/bin/python {script}"
    return f"{script}: No module named {missing[0]!r}: {remedy}"


def enter(script: Path) -> None:
    """Put the checkout first on the path; exit with status 2 if a package is missing."""
    sys.path[0] = str(ROOT)
    inside = script.is_relative_to(ROOT)
    reason = missing_package(script.relative_to(ROOT) if inside else script)
    if reason:
        print(reason, file=sys.stderr)
        sys.exit(2)


enter(Path(sys.argv[0]).resolve())
