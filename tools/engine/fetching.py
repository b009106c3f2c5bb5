"""Remote data of a run: what is noted before its first step, and what its log lines count."""

from __future__ import annotations

from pipelines.loader import Loader
from pipelines.sources.fetched import remote_files
from pipelines.sources.table import Table
from pipelines.system.units import size_text
from tools.config.config import Config
from tools.engine.data import is_held


def fetched(loader: Loader) -> dict[str, float]:
    """Return what this process has fetched of its images so far, and how long steps waited for it.

    ``fetched_mb`` in 10^6 bytes, ``fetch_requests``, ``fetch_wait`` in seconds; local data: {}.
    """
    counters = [file.counters for file in remote_files(loader.maker.table.source)]
    if not counters:
        return {}
    return {
        "fetched_mb": sum(c.bytes_fetched for c in counters) / 1e6,
        "fetch_requests": sum(c.requests for c in counters),
        "fetch_wait": sum(c.seconds_waited for c in counters),
    }


def notes(config: Config, table: Table) -> list[str]:
    """Return how much of remote training data is on the disk, and whether its cache is too small.

    Empty for local data.
    """
    files = remote_files(table.source)
    if not files:
        return []
    size, missing = sum(file.size for file in files), sum(file.missing() for file in files)
    place = files[0].options.cache_dir / "remote"
    here = size_text(max(size - missing, 0))
    line = f"remote data: {here} of {size_text(size)} are here, in {place}"
    if is_held(config, table):
        rest = "; --loader memory fetches the rest before the first step" if missing else ""
        return [line + rest]
    limit = files[0].options.cache_size
    return [line] if limit is None or limit >= size else [line, *_refetched(config, table, limit)]


def _refetched(config: Config, table: Table, limit: int) -> list[str]:
    """Return a note if images are fetched again in each epoch, because the cache is too small."""
    size = sum(file.size for file in remote_files(table.source))
    given = f"--cache-size {config.cache_size:g}"
    if config.order != "blocks":
        return [
            f"note: {given} GB is less than the data: --order random fetches most images again in "
            "each epoch. --order blocks fetches each about once"
        ]
    rows = config.groups * config.window_blocks * config.block_rows
    window = min(rows / len(table), 1.0) * size
    if window <= limit:
        return []
    return [
        f"note: --order blocks shuffles {size_text(round(window))} at a time ({config.groups} "
        f"groups of {config.window_blocks} blocks), more than {given} GB: images are fetched "
        "again. Raise --cache-size, or lower --window-blocks"
    ]
