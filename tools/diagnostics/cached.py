"""The cache in words, for ``doctor --cache``."""

from __future__ import annotations

import time
from collections.abc import Sequence

from pipelines.system import cache
from pipelines.system.cache import Entry
from pipelines.system.units import size_text


def list_cache() -> str:
    """Return a line for each file or folder, the least recently used first, and the sum."""
    held = cache.entries()
    lines = [_line(entry) for entry in held]
    total = size_text(sum(entry.bytes for entry in held))
    limit = size_text(cache.size_limit())
    lines.append(f"{cache.cache_root()}: {total} of {limit} (UNMIX_CACHE_LIMIT)")
    if held:
        lines.append("python tools/doctor.py --cache --empty removes what no run uses")
    return "\n".join(lines)


def empty_cache() -> str:
    """Remove what no run uses; return what was removed, and what is in use."""
    gone, used = cache.empty()
    lines = [f"removed {_count(gone)}"]
    if used:
        lines += [f"in use: {_count(used)}", *map(_line, used)]
    return "\n".join(lines)


def _count(entries: Sequence[Entry]) -> str:
    return f"{len(entries):,} entries, {size_text(sum(entry.bytes for entry in entries))}"


def _line(entry: Entry) -> str:
    name = entry.path.relative_to(cache.cache_root())
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
    unfinished = "  (unfinished)" if cache.is_temporary(entry.path) else ""
    return f"{size_text(entry.bytes):>12}  used {used}  {name}{unfinished}"
