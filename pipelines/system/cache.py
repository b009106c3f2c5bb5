"""The folder of prepared data."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Return ``$UNMIX_CACHE``, else ``unmix`` below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if named := os.environ.get("UNMIX_CACHE"):
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "unmix"
