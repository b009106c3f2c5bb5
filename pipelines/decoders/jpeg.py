"""JPEG headers: whether a fast decoder returns the same image as PIL."""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numpy.typing import NDArray

from pipelines.system.jit import jit


def ends_as_jpeg(data: NDArray[np.uint8]) -> bool:
    """Whether the last two bytes are the end marker, so that nothing is cut off or appended."""
    return bool(data[-2:].tolist() == [0xFF, 0xD9])


@jit
@no_type_check
def is_plain_jpeg(data, height, width):
    """Whether ``data`` (bytes,) is an upright 8-bit gray or YCbCr JPEG of ``height x width``.

    PIL decodes all others (another format under this name, CMYK, stored as RGB, 12 bits, an EXIF
    or XMP orientation, another size). Only the markers up to the frame header are read.
    """
    if len(data) < 4 or data[0] != 0xFF or data[1] != 0xD8:
        return False
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return False
        marker = data[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        begin, end = at + 4, at + 2 + word(data, at + 2, True)
        if end < begin or end > len(data):
            return False
        if 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC:
            return is_plain_frame(data[begin:end], height, width)
        if marker == 0xDA or marker == 0xD9:  # the scan, or the end, before any frame
            return False
        if marker == 0xE1 and is_turned(data[begin:end]):
            return False
        if marker == 0xEE and end - begin >= 12 and data[begin] == 65 and data[begin + 11] != 1:
            return False  # Adobe's marker with another transform than YCbCr
        at = end
    return False


@jit
@no_type_check
def is_plain_frame(frame, height, width):
    """Whether a SOF segment announces 8 bits, this size, and gray or YCbCr."""
    if len(frame) < 6 or frame[0] != 8:
        return False
    if word(frame, 1, True) != height or word(frame, 3, True) != width:
        return False
    if frame[5] == 3 and len(frame) >= 15 and frame[6] == 82 and frame[9] == 71:
        return False  # components named R and G
    return frame[5] == 1 or frame[5] == 3


@jit
@no_type_check
def is_turned(segment):
    """Whether an APP1 segment asks for another orientation than the stored one."""
    n = len(segment)
    if n < 14 or segment[0] != 69 or segment[1] != 120:  # not "Ex(if)", so XMP
        return find_orientation(segment)
    big = segment[6] == 77  # "MM", else "II"
    tags = 6 + double_word(segment, 10, big)
    if tags + 2 > n:
        return False
    for i in range(word(segment, tags, big)):
        entry = tags + 2 + 12 * i
        if entry + 12 > n:
            return False
        if word(segment, entry, big) == 0x0112:
            value = word(segment, entry + 8, big)
            return word(segment, entry + 2, big) != 3 or 2 <= value <= 8  # 3: a 16-bit number
    return False


@jit
@no_type_check
def find_orientation(segment):
    """Whether an XMP packet mentions an orientation; PIL reads its value."""
    needle = b"tiff:Orientation"
    for i in range(len(segment) - len(needle) + 1):
        k = 0
        while k < len(needle) and segment[i + k] == needle[k]:
            k += 1
        if k == len(needle):
            return True
    return False


@jit
@no_type_check
def word(data, at, big):
    """Two bytes as a number."""
    high, low = (at, at + 1) if big else (at + 1, at)
    return (int(data[high]) << 8) | int(data[low])


@jit
@no_type_check
def double_word(data, at, big):
    """Four bytes as a number."""
    if big:
        return (word(data, at, big) << 16) | word(data, at + 2, big)
    return (word(data, at + 2, big) << 16) | word(data, at, big)
