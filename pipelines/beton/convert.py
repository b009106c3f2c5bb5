"""Convert a ``Table`` to a ``.beton``, in order, with worker processes that cannot hang it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shlex
import shutil
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from pipelines.beton.encode import (
    Settings,
    Task,
    decode_rows,
    encode_rows,
    read_order,
    refuse_too_large,
    split_table,
)
from pipelines.beton.format import Sample, manifest_path, open_beton
from pipelines.beton.reorder import is_out_of_order, write_reordered
from pipelines.beton.room import check_room, estimate, page_size_of
from pipelines.beton.writer import write_beton
from pipelines.sources.arrays import Arrays
from pipelines.sources.beton import Beton
from pipelines.sources.colors import without_flag
from pipelines.sources.file_list import place_of
from pipelines.sources.files import Files
from pipelines.sources.folder import LISTED, OnBad
from pipelines.sources.image_file import RULES
from pipelines.sources.listing import place_key
from pipelines.sources.shards import Shards
from pipelines.sources.stored import InFiles
from pipelines.sources.table import Table
from pipelines.system import cache
from pipelines.system.atomic import replacing
from pipelines.system.progress import tracked
from pipelines.system.units import size_text
from pipelines.system.workers import main_hidden, worker_pool

T = TypeVar("T")
log = logging.getLogger(__name__)

OnError = Literal["stop", "skip", "keep"]
CHUNK = 32
"""Rows of a worker's task."""
FEW = 256
"""Up to this many rows are converted without worker processes."""
CACHE_LIMIT = 5_000_000_000
"""Largest file in bytes that is converted automatically."""
CACHE_SETTINGS = Settings(max_size=0, quality=95, keep_jpeg=True)


class WorkerDied(ValueError):
    """An encoding process was killed; nothing was written."""


def convert(
    table: Table,
    out: Path,
    settings: Settings,
    on_error: OnError = "stop",
    source: str = "",
    shard: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write ``table`` to ``out`` and its manifest next to it; return the manifest.

    Args:
        table: the rows; unreadable images are allowed.
        out: file that appears when it is complete, and only then.
        settings: how images are stored.
        on_error: ``stop`` names every bad image and writes nothing; ``skip`` leaves them out and
            lists them in the manifest; ``keep`` lists them too, but stores their bytes, so that the
            rows are the table's and a decoder replaces the image.
        source: the table's name for ``--data``; kept in the manifest.
        shard: the manifest's entry of that name, if the table is one of several parts.

    Raises:
        ValueError: there are bad images and ``on_error`` is ``stop``, all images are bad, or the
            disk is too small.
        OSError: the file system failed.
        WorkerDied: a worker process died.
    """
    page_size = page_size_of(table, settings)
    reordered = is_out_of_order(table)
    check_room(out, estimate(table, settings) * (2 if reordered else 1))
    report = _Report()
    samples = _samples(table, settings, page_size, on_error, report)
    if reordered:
        rows = write_reordered(out, table, samples, report.written, page_size)
    else:
        rows = write_beton(out, samples, len(table), page_size)
    manifest = {
        "format": 1,
        "source": source,
        "rows": rows,
        "channels": table.channels,
        "rules": dataclasses.asdict(table.source.rules),
        "bytes": out.stat().st_size,
        **report.counts,
        "classes": list(table.classes),
        "settings": dataclasses.asdict(settings),
        "skipped": report.skipped,
    } | ({} if shard is None else {"shard": dict(shard)})
    with replacing(manifest_path(out)) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


@dataclass(slots=True)
class _Report:
    """What became of the rows."""

    skipped: list[dict[str, str]] = field(default_factory=list)
    """Name and reason of each bad image."""
    counts: dict[str, int] = field(default_factory=lambda: {"jpg": 0, "raw": 0, "kept": 0})
    written: array[int] = field(default_factory=lambda: array("q"))
    """The written rows of the table, in their order."""


def _samples(
    table: Table, settings: Settings, page_size: int, on_error: OnError, report: _Report
) -> Iterator[Sample]:
    """Yield the good rows in the order in which they are read; fill the report.

    With ``stop``, the rows after a bad image are still examined, so that one run names all of them.
    """
    keep, skipped, counts = on_error == "keep", report.skipped, report.counts
    tasks = (Task(part, settings, page_size, keep) for part in split_table(table, CHUNK))
    results = in_order(encode_rows, tasks, _workers(settings.workers, len(table)))
    rows = (row for part in results for row in part)
    shown = tracked(rows, len(table), "converting")
    for number, row in zip(read_order(table), shown, strict=True):
        if why := row if isinstance(row, str) else row.problem:
            name = table.source.name(number)
            if keep or len(skipped) >= LISTED:  # the first are in the message at the end
                log.warning("bad image: %s: %s", name, why)
            skipped.append({"name": name, "reason": why})
        if not isinstance(row, str) and (on_error != "stop" or not skipped):
            counts["kept"] += row.kept
            counts["jpg" if row.sample.jpg else "raw"] += 1
            report.written.append(number)
            yield row.sample
    for bad in skipped if len(skipped) < len(table) else ():
        bad["reason"] = without_flag(bad["reason"])
    if skipped and (on_error == "stop" or len(skipped) == len(table)):
        raise ValueError(_complaint(skipped, len(table)))


def _complaint(skipped: Sequence[dict[str, str]], rows: int) -> str:
    lines = [f"  {bad['name']}: {bad['reason']}" for bad in skipped[:LISTED]]
    if len(skipped) > LISTED:
        lines.append(f"  ... and {len(skipped) - LISTED} more, each logged above")
    fix = "Delete them, or leave them out with --on-error skip."
    fix = fix if len(skipped) < rows else "There is nothing else to write."
    return "\n".join(
        [f"{len(skipped)} of {rows} images are bad; no file was written:", *lines, fix]
    )


def _workers(asked: int, rows: int) -> int:
    return 1 if rows <= FEW else asked or len(os.sched_getaffinity(0))


def in_order(
    function: Callable[[Task], list[T]], tasks: Iterable[Task], workers: int
) -> Iterator[list[T]]:
    """``map`` over worker processes with a bounded number of pending tasks.

    Raises:
        WorkerDied: a worker died; this is noticed at once.
    """
    if workers == 1:
        yield from map(function, tasks)
        return
    pool = worker_pool(workers)
    pending: deque[Future[list[T]]] = deque()
    try:
        for task in tasks:
            with main_hidden():
                pending.append(pool.submit(function, task))
            if len(pending) >= 4 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            "a worker process died, possibly for lack of memory; nothing was written. "
            "Fewer --workers need less memory"
        ) from error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def bad_rows(table: Table, workers: int = 0) -> list[tuple[int, str]]:
    """Decode every row with PIL; return the numbers of those that fail, with the reason."""
    tasks = (Task(part, Settings(), 0) for part in split_table(table, CHUNK))
    results = in_order(decode_rows, tasks, _workers(workers, len(table)))
    rows = (row for part in results for row in part)
    found = enumerate(tracked(rows, len(table), "verifying"))
    return [(number, why) for number, why in found if why]


def cached_beton(table: Table, spec: str, *, split: str = "train", on_bad: OnBad = "stop") -> Table:
    """Return ``table`` as a ``.beton`` in the cache, converted on first use.

    A table whose rows are pieces of files, as those of a ``.beton``, is returned unchanged. JPEGs
    keep their bytes, other lossy images are stored at quality 95, the rest raw.

    Raises:
        ValueError: the file would take too much of the disk or of the cache's limit (the text has
            the command that converts the data explicitly), or the cache is read-only.
    """
    if isinstance(table.source, InFiles):
        return table
    title = re.sub(r"[^A-Za-z0-9]+", "-", spec).strip("-")[-40:]
    content, betons = content_key(table), cache.cache_root() / "betons"
    for path in betons.glob(f"*-{content}.beton"):
        try:
            cache.hold(path)
            return _named_as(open_beton(path), table)
        except ValueError as error:
            log.warning("%s; converting again", error)
    place = "memory-0"
    if isinstance(table.source, Files):
        place = place_of(table.source) or place_key(table.source.root)
    path = betons / f"{title}-{place}-{content}.beton"
    refuse_too_large(table)
    with cache.writing():
        path.parent.mkdir(parents=True, exist_ok=True)
    need = estimate(table, CACHE_SETTINGS)
    if need > min(CACHE_LIMIT, cache.size_limit(), shutil.disk_usage(path.parent).free / 2):
        raise ValueError(
            f"--loader ffcv would convert {spec} into about {size_text(need)} below {path.parent}, "
            "more than 5 GB, UNMIX_CACHE_LIMIT or half the free disk. Convert it yourself:\n"
            f"  python tools/write_ffcv.py {shlex.quote(spec)} {title}.beton --split {split}\n"
            f"and train with --data {title}.beton"
        )
    cache.make_room(need)
    log.info("converting %s once into %s (about %s)", spec, path, size_text(need))
    with cache.writing():
        convert(table, path, CACHE_SETTINGS, "stop" if on_bad == "stop" else "keep", spec)
    cache.hold(path)
    cache.remove_outdated(path)
    return _named_as(open_beton(path), table)


def _named_as(beton: Table, table: Table) -> Table:
    """Give the rows the names of the images they come from; a skipped image leaves no numbering."""
    if len(beton) != len(table):
        return beton
    assert isinstance(beton.source, Beton)
    names = [table.source.name(row) for row in range(len(table))]
    return dataclasses.replace(beton, source=dataclasses.replace(beton.source, names=names))


def content_key(table: Table) -> str:
    """Return a digest of labels and sizes, and of pixels or the files' names, sizes and times."""
    digest = hashlib.sha256(repr(CACHE_SETTINGS).encode())
    if table.source.rules != RULES:
        digest.update(repr(table.source.rules).encode())
    for column in (table.label, table.height, table.width):
        digest.update(np.ascontiguousarray(column).data)
    digest.update(os.fsencode("\0".join(table.classes)))
    if isinstance(table.source, Arrays):
        digest.update(np.ascontiguousarray(table.source.images).data)
    elif isinstance(table.source, Files):
        if table.source.pages is not None:
            digest.update(table.source.pages.data)
        for name in table.source.names:
            stat = (table.source.root / name).stat()
            digest.update(os.fsencode(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n"))
    elif isinstance(table.source, Shards):
        digest.update(table.source.identity())
    else:
        raise ValueError(f"{type(table.source).__name__} cannot be kept in the cache")
    return digest.hexdigest()[:16]
