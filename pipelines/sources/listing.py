"""Which files below a folder are images, and what is left out: counted, so that a line can name it.

Every file with an ending of a raster format that Pillow can open here is an image. Hidden folders,
the files of operating systems, the folders of runs and the cache are no data.
"""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, features

from pipelines.system.cache import cache_root
from pipelines.system.units import counted

DRAWINGS = frozenset(("BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PALM", "PDF", "WMF"))
"""Formats that are no raster images, or that Pillow cannot decode by itself."""
DECODERS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}
"""Formats of which Pillow may be built without the decoder -> Pillow's name of the decoder."""
UNREADABLE = frozenset(
    (
        *(".avif", ".heic", ".heif", ".hif", ".jxl", ".jxr", ".jp2", ".webp", ".exr", ".hdr"),
        *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".raw", ".dcm", ".svg"),
        *(".nii", ".mrc", ".czi", ".nd2", ".svs", ".pdf", ".eps"),
    )
)
"""Endings of images that Pillow cannot decode here; a message says so."""
SYSTEM = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin"))
"""Names, in lower case, that operating systems leave between images."""
SHOWN = 8
"""Number of endings that a message names; the others are counted."""
RUN_FILES = ("metrics.jsonl", "checkpoints", ".lock")
"""Next to ``config.yaml``, any of these shows that a folder is a run's."""
PICTURES = frozenset(("views.png", "curves.png", "neighbours.png"))
"""Pictures in the folder of a run, which may be the folder of the images itself."""


@functools.cache
def extensions() -> frozenset[str]:
    """Return the endings, in lower case, of the raster formats that Pillow opens here."""
    known = Image.registered_extensions().items()
    usable = {*Image.OPEN, "MPO"} - DRAWINGS  # MPO is opened as JPEG
    usable -= {name for name, decoder in DECODERS.items() if not features.check(decoder)}
    return frozenset(ending for ending, name in known if name in usable)


@dataclass(slots=True)
class LeftOut:
    """Numbers of files and folders below a folder that are no data."""

    endings: Counter[str] = field(default_factory=Counter)
    """Files by ending in lower case; empty for files without one."""
    hidden: int = 0
    """Hidden folders, and files and folders of operating systems."""
    outputs: int = 0
    """Folders of runs, the cache, and pictures of a run."""
    broken_links: int = 0

    def text(self) -> str:
        """Return a list in words: ``9 .avif (no decoder), 3 hidden``; empty if nothing was."""
        ordered = sorted(self.endings.items(), key=lambda item: (-item[1], item[0]))
        parts = [
            f"{count:,} {ending or 'without an ending'}"
            + (" (no decoder)" if ending in UNREADABLE else "")
            for ending, count in ordered[:SHOWN]
        ]
        if more := ordered[SHOWN:]:
            parts.append(f"{sum(n for _, n in more):,} with {counted(len(more), 'other ending')}")
        parts += [f"{self.hidden:,} hidden"] if self.hidden else []
        parts += [f"{counted(self.outputs, 'output')} of unmix"] if self.outputs else []
        parts += [f"{counted(self.broken_links, 'link')} to nothing"] if self.broken_links else []
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Listing:
    """The image files below a folder, sorted by path; ``stamp`` changes if any of them does."""

    names: list[str]
    stamp: str
    left_out: LeftOut = field(default_factory=LeftOut)
    sizes: tuple[int, ...] = ()
    """Bytes of each file."""


def list_images(root: Path, folders: Sequence[str] | None = None) -> Listing:
    """Find the image files below ``root``, or below these sub-folders of it; links are followed.

    Raises:
        ValueError: a folder cannot be read; the text names it.
    """
    tops = [root] if folders is None else [root / name for name in folders]
    walk = _Walk(str(root), os.path.realpath(cache_root()))
    found: list[tuple[str, int, int]] = []
    for top in tops:
        if top.is_dir():
            found.extend(walk.below(str(top), frozenset()))
    found.sort()
    digest = hashlib.sha256()
    for name, size, changed in found:
        digest.update(os.fsencode(f"{name}\0{size}\0{changed}\n"))
    sizes = tuple(size for _, size, _ in found)
    return Listing([name for name, _, _ in found], digest.hexdigest(), walk.left_out, sizes)


def place_key(root: Path) -> str:
    """Return FOLDER-FILES: digests of a folder's place, and of its images as they are now."""
    folder = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()
    return f"{folder[:8]}-{list_images(root).stamp[:8]}"


@dataclass(slots=True)
class _Walk:
    root: str
    cache: str
    left_out: LeftOut = field(default_factory=LeftOut)

    def below(self, folder: str, above: frozenset[str]) -> Iterator[tuple[str, int, int]]:
        """Yield relative path, size and time of each image; a link to a parent is not followed."""
        real = os.path.realpath(folder)
        if real in above:
            return
        entries = _entries(folder)
        ours = _is_run({entry.name for entry in entries})
        if folder != self.root and (ours or real == self.cache):
            self.left_out.outputs += 1
            return
        for entry in entries:
            directory = entry.is_dir()
            if is_hidden(entry.name) if directory else is_system(entry.name):
                self.left_out.hidden += 1
            elif directory:
                yield from self.below(entry.path, above | {real})
            elif ours and entry.name in PICTURES:
                self.left_out.outputs += 1
            else:
                yield from self._file(entry)

    def _file(self, entry: os.DirEntry[str]) -> Iterator[tuple[str, int, int]]:
        ending = os.path.splitext(entry.name)[1].lower()
        try:
            found = entry.stat()
        except FileNotFoundError:
            self.left_out.broken_links += 1
            return
        if ending in extensions() and stat.S_ISREG(found.st_mode):
            yield os.path.relpath(entry.path, self.root), found.st_size, found.st_mtime_ns
        else:
            self.left_out.endings[ending] += 1


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except PermissionError as error:
        raise ValueError(
            f"{folder} cannot be read ({error.strerror}): give this user the right to "
            f"(chmod -R u+rX {folder}), or move it out of the data"
        ) from error


def is_hidden(name: str) -> bool:
    """Whether a folder is hidden, as ``.ipynb_checkpoints``, or an operating system's."""
    return name.startswith(".") or name.lower() in SYSTEM


def is_system(name: str) -> bool:
    """Whether a file is an operating system's; macOS puts ``._NAME`` next to a file ``NAME``."""
    return name.startswith("._") or name.lower() in SYSTEM


def _is_run(names: set[str]) -> bool:
    return "config.yaml" in names and not names.isdisjoint(RUN_FILES)
