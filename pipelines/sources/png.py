"""What a PNG's chunks say: depth, significant bits, and whether metadata follows the pixels."""

from __future__ import annotations

import io
import os

File = io.BytesIO | io.BufferedReader


def png_depth(file: File) -> tuple[int, int]:
    """Return a PNG's bits of a sample, and the largest number in its sBIT chunk or 0."""
    depth = significant = 0
    for kind, data in _chunks(file):
        if kind == b"IHDR":
            depth = data[8]
        elif kind == b"sBIT" and data:
            significant = max(data)
    return depth, significant


def _chunks(file: File) -> list[tuple[bytes, bytes]]:
    """Return the chunks of a PNG before its pixels."""
    before = file.tell()
    file.seek(8)
    found = []
    while len(head := file.read(8)) == 8 and head[4:] not in (b"IDAT", b"IEND"):
        found.append((head[4:], file.read(int.from_bytes(head[:4], "big"))))
        file.seek(4, os.SEEK_CUR)
    file.seek(before)
    return found


def metadata_after_pixels(file: File) -> bool:
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
