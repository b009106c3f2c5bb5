"""A folder of images as a ``Table``; sizes are read from the headers once and cached."""

from __future__ import annotations

import difflib
import hashlib
import io
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.sources.files import Files
from pipelines.sources.image_file import MAX_PIXELS, reason
from pipelines.sources.listing import UNREADABLE, LeftOut, Listing, list_images
from pipelines.sources.splits import warnings_of
from pipelines.sources.table import Table
from pipelines.system.atomic import replacing
from pipelines.system.progress import print_once, tracked
from pipelines.system.workers import main_hidden, worker_pool

log = logging.getLogger(__name__)

OnBad = Literal["stop", "replace", "keep"]
ORIENTATION = 0x0112
"""EXIF's orientation tag; 5 to 8 exchange height and width."""
CHUNK = 512
MANY_CHUNKS = 40
"""More files than this times 512 are measured by worker processes."""
LISTED = 20
"""Number of bad files that a message names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Upright sizes in the listing's order, 0 for the files in ``bad`` (name -> reason)."""

    height: NDArray[np.int32]
    width: NDArray[np.int32]
    bad: dict[str, str]


def scan(
    path: Path, cache_dir: Path, on_bad: OnBad, keep_classes: Sequence[str] | None = None
) -> Table:
    """Return the images below ``path``, labelled by their first-level folder.

    If an image lies directly below ``path``, the folder has no classes and all labels are -1.

    Args:
        path: folder of any depth; links are followed.
        cache_dir: folder of the cached sizes, which hold until a file's name, size or time changes.
        on_bad: ``stop`` raises if a header cannot be read, ``replace`` leaves the file out,
            ``keep`` lists it with height and width 0, so that the writer can name it.
        keep_classes: use only these first-level folders, labelled in this order.

    Raises:
        ValueError: there is no folder or no image, a class is unknown, or files cannot be read and
            ``on_bad`` is ``stop``.
    """
    root = path.expanduser().absolute()
    if not root.is_dir():
        raise ValueError(f"{path} is not a folder")
    if keep_classes is not None:
        folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
        check_classes(keep_classes, folders, str(path))
    listing = list_images(root, keep_classes)
    if not listing.names:
        raise ValueError(_no_images(path, listing.left_out))
    if keep_classes is None:
        for line in warnings_of(path, listing.names):
            print_once(log, line)
    measured = _remembered(root, listing, cache_dir)
    if on_bad != "keep":
        report_bad(measured.bad, on_bad)
    good = np.flatnonzero((measured.height > 0) | (on_bad == "keep"))
    if not len(good):
        raise ValueError(f"{path}: not one of {len(listing.names)} images can be read")
    label, classes = _label(path, listing.names, keep_classes)
    source = Files(root, listing.names)
    return Table(label, measured.height, measured.width, source, classes).take(good)


def _no_images(path: Path, left_out: LeftOut) -> str:
    found = left_out.text()
    lines = [f"{path} holds no images: " + (f"only {found}" if found else "it is empty")]
    if left_out.endings.keys() & UNREADABLE:
        lines.append("Pillow cannot decode these here: convert them, for example to JPEG")
    if ".tar" in left_out.endings:
        lines.append(f"tar shards: python tools/write_ffcv.py 'wds:{path}/*.tar' train.beton")
    if ".beton" in left_out.endings:
        lines.append("a .beton is named itself, as --data PATH.beton")
    return "\n".join(lines)


def report_bad(bad: dict[str, str], on_bad: OnBad) -> None:
    """Name the bad files (name -> reason) in a ValueError, or in one warning."""
    if not bad:
        return
    lines = [f"  {name}: {why}" for name, why in list(bad.items())[:LISTED]]
    if len(bad) > LISTED:
        lines.append(f"  ... and {len(bad) - LISTED} more")
    text = "\n".join([f"{len(bad)} files cannot be read:", *lines])
    if on_bad == "stop":
        raise ValueError(f"{text}\nDelete them, or leave them out with --on-bad-image replace.")
    log.warning("%s\nThey are left out.", text)


def _label(
    path: Path, names: Sequence[str], keep: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    tops = [name.split(os.sep, 1)[0] if os.sep in name else "" for name in names]
    if loose := tops.count(""):
        if loose < len(names):
            log.warning("%s: %d images lie in no class folder: no labels are used", path, loose)
        return np.full(len(names), -1, np.int64), ()
    classes = tuple(sorted(set(tops)) if keep is None else keep)
    check_classes(classes, sorted(set(tops)), str(path))
    number = {name: i for i, name in enumerate(classes)}
    return np.array([number[top] for top in tops], np.int64), classes


def check_classes(wanted: Sequence[str], known: Sequence[str], where: str) -> None:
    """Raise ``ValueError`` for a class that ``where`` does not have; suggest the nearest name."""
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {len(known)} others"
            raise ValueError(f"{where} has no images of a class {name!r}; {hint}")


def _remembered(root: Path, listing: Listing, cache_dir: Path) -> Measured:
    """Return the cached sizes if their stamp is the listing's; else measure and cache them."""
    key = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    file = cache_dir / "tables" / f"{root.name}-{key}.npz"
    known = _load(file, listing)
    if known is None:
        known = measure(root, listing.names)
        bad = np.frombuffer(json.dumps(known.bad).encode(), np.uint8)
        with replacing(file) as temporary, temporary.open("wb") as out:
            stamp = np.array(listing.stamp)
            np.savez(out, stamp=stamp, height=known.height, width=known.width, bad=bad)
    return known


def _load(file: Path, listing: Listing) -> Measured | None:
    try:
        with np.load(file, allow_pickle=False) as kept:
            if str(kept["stamp"]) == listing.stamp:
                bad = json.loads(kept["bad"].tobytes())
                return Measured(kept["height"], kept["width"], bad)
    except FileNotFoundError:
        pass
    except Exception as error:  # a damaged zip raises half a dozen kinds
        log.warning("%s cannot be read (%s): measured again", file, error)
    return None


def measure(root: Path, names: Sequence[str]) -> Measured:
    """Read every header: in this process, or in worker processes if there are many files."""
    chunks = [names[i : i + CHUNK] for i in range(0, len(names), CHUNK)]
    sizes = list(tracked(_sizes(root, chunks), len(names), f"reading headers below {root}"))
    bad = {
        str(root / name): size
        for name, size in zip(names, sizes, strict=True)
        if isinstance(size, str)
    }
    pairs = np.array([(0, 0) if isinstance(size, str) else size for size in sizes], np.int32)
    return Measured(pairs[:, 0].copy(), pairs[:, 1].copy(), bad)


def _sizes(root: Path, chunks: Sequence[Sequence[str]]) -> Iterator[tuple[int, int] | str]:
    roots = [root] * len(chunks)
    if len(chunks) <= MANY_CHUNKS:
        yield from chain.from_iterable(map(_measure_chunk, roots, chunks))
        return
    with worker_pool() as pool:
        with main_hidden():
            sizes = pool.map(_measure_chunk, roots, chunks)
        yield from chain.from_iterable(sizes)


def _measure_chunk(root: Path, names: Sequence[str]) -> list[tuple[int, int] | str]:
    return [_measure_file(root / name) for name in names]


def _measure_file(path: Path) -> tuple[int, int] | str:
    try:
        with path.open("rb") as file:
            return upright_size(file)
    except Exception as error:  # Pillow's plugins raise anything from SyntaxError to struct.error
        return reason(error, path.stat().st_size if path.exists() else 1)


def upright_size(file: io.BytesIO | io.BufferedReader) -> tuple[int, int]:
    """Return height and width after EXIF orientation, from an image's header.

    Raises:
        ValueError: the image has more than ``MAX_PIXELS`` pixels. Pillow raises many other errors.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images and odd EXIF; the limit below decides
        with Image.open(file) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width}x{image.height} pixels is over the limit")
            if _turned(image, file):
                return image.width, image.height
            return image.height, image.width


def _turned(image: Image.Image, file: io.BytesIO | io.BufferedReader) -> bool:
    """Whether the upright image has height and width exchanged."""
    if image.format == "TIFF":
        return False  # Pillow has already exchanged them
    if image.format == "PNG" and not _metadata_after_pixels(file):
        exif = Image.Image.getexif(image)  # PNG's own would decode the pixels first
    else:
        exif = image.getexif()
    return exif.get(ORIENTATION, 1) in (5, 6, 7, 8)


def _metadata_after_pixels(file: io.BytesIO | io.BufferedReader) -> bool:
    """Whether a PNG has chunks after its pixels that may hold an orientation."""
    before = file.tell()
    file.seek(8)
    seen_pixels = found = False
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND" and not found:
        seen_pixels |= head[4:] == b"IDAT"
        found = seen_pixels and head[4:] in (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
        file.seek(int.from_bytes(head[:4], "big") + 4, os.SEEK_CUR)
    file.seek(before)
    return found
