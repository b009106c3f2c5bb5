"""The cache in words, for ``doctor --cache``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from pipelines.system import cache
from pipelines.system.cache import Entry
from pipelines.system.units import size_text


def list_cache() -> str:
    """Return a line for each file or folder, the least recently used first, and the sum."""
    held = cache.entries()
    lines = [_line(entry) for entry in held]
    total = size_text(sum(entry.bytes for entry in held if not entry.is_remote))
    limit = size_text(cache.size_limit())
    lines.append(f"{cache.cache_root()}: {total} of {limit} (UNMIX_CACHE_LIMIT)")
    if fetched := [entry for entry in held if entry.is_remote]:
        lines.append(f"fetched of remote files: {_count(fetched)} (--cache-size limits a run's)")
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
    name = str(entry.path.relative_to(cache.cache_root()))
    if entry.is_remote:
        name += f"  {_url(entry)}"
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
    unfinished = "  (unfinished)" if cache.is_temporary(entry.path) else ""
    return f"{size_text(entry.bytes):>12}  used {used}  {name}{unfinished}"


def _url(entry: Entry) -> str:
    """Return the URL of a remote file, as far as its record can be read."""
    try:
        return str(json.loads((entry.path / "meta.json").read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError):
        return "(its record cannot be read)"
