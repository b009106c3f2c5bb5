"""The first check of a command that runs as a script: are its packages installed?"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NEEDED = (
    *("numpy", "torch", "accelerate", "tyro", "PIL", "yaml", "rich", "jaxtyping", "numba"),
    *("timm", "torchvision", "matplotlib", "jinja2", "psutil", "sklearn", "skimage"),
)
"""The modules of the requirements that commands import, those that every command needs first."""


def check() -> None:
    """Put the root of the checkout first on the path; exit with status 2 if a package is missing.

    Python puts the script's folder there, which is ``tools`` for tools/*.py. Its subpackages would
    hide other packages, and the project would be found only if it is installed.
    """
    sys.path[0] = str(ROOT)
    reason = missing_package(sys.argv[0])
    if reason:
        print(reason, file=sys.stderr)
        sys.exit(2)


def missing_package(script: str) -> str | None:
    """Return why ``script`` cannot start, with the fix, or None."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if not missing:
        return None
    path = Path(script).resolve()
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    if not (ROOT / ".venv").exists() or Path(sys.prefix) == ROOT / ".venv":
        remedy = f"run 'make install', then .venv/bin/python {name}"
    else:
        activate = "activate the environment (source .venv/bin/activate)"
        remedy = f"{activate} or run .venv/bin/python {name}"
    return f"{name}: No module named {missing[0]!r}: {remedy}"
