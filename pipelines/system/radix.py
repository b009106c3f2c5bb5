"""Sorting many rows, compiled: by a hash, and by a delay.

Rows sorted by their hash are divided by its leading bits first, in the result's own memory, and
each part is then sorted in the processor's cache: a radix sort, most significant digit first. Both
give what NumPy's stable ``argsort`` gives, bit by bit.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np

from pipelines.system.jit import jit

# of splitmix64, as in pipelines.rng
_GOLDEN, _FIRST, _SECOND = (
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


@jit
@no_type_check
def mixed(x):
    """Return splitmix64's finalizer of a word, as ``pipelines.rng`` computes it."""
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return x ^ (x >> np.uint64(31))


@jit
@no_type_check
def word(key, slot, row):
    """Return the word of a row: ``RowRng.bits(row, stream, 1)``."""
    return mixed(mixed(key + np.uint64(row) * _GOLDEN) + slot)


@jit
@no_type_check
def divide(key, slot, bits, end, out):
    """Order the rows by the first ``bits`` of their words; note where each part ends."""
    shift = np.uint64(64 - bits)
    for row in range(len(out)):
        end[word(key, slot, row) >> shift] += 1
    total = 0
    for part in range(len(end)):
        count = end[part]
        end[part] = total
        total += count
    for row in range(len(out)):
        part = word(key, slot, row) >> shift
        out[end[part]] = row
        end[part] += 1


@jit
@no_type_check
def sort_parts(key, slot, bits, end, longest, out):
    """Sort the rows of each part by the rest of their words.

    The bits that a part's words share make room for a row's place in the part. No two numbers are
    then equal, and rows with equal words stay in order.
    """
    rows = np.empty(longest, out.dtype)
    numbers, ordered = np.empty(longest, np.uint64), np.empty(longest, np.uint64)
    digits = max(bits - 1, 1)  # of the next digit: about one row each
    shift, low, mask = np.uint64(64 - digits), np.uint64(bits), np.uint64((1 << bits) - 1)
    place = np.empty(1 << digits, np.int64)
    begin = 0
    for part in range(len(end)):
        count = end[part] - begin
        place[:] = 0
        for i in range(count):
            rows[i] = out[begin + i]
            numbers[i] = (word(key, slot, rows[i]) << low) | np.uint64(i)
            place[numbers[i] >> shift] += 1
        total = 0
        for digit in range(len(place)):
            here = place[digit]
            place[digit] = total
            total += here
        for i in range(count):
            digit = numbers[i] >> shift
            ordered[place[digit]] = numbers[i]
            place[digit] += 1
        for i in range(1, count):  # insertion: rows of one digit are next to each other
            number, j = ordered[i], i
            while j > 0 and ordered[j - 1] > number:
                ordered[j] = ordered[j - 1]
                j -= 1
            ordered[j] = number
        for i in range(count):
            out[begin + i] = rows[ordered[i] & mask]
        begin = end[part]


@jit
@no_type_check
def sort_delayed(late):
    """Return ``np.argsort(late, kind="stable")`` of numbers at least as large as their place.

    ``late[i]`` is place i and a delay, so that a whole number has about one element.
    """
    most = np.int64(0)
    for i in range(len(late)):
        most = max(most, np.int64(late[i]))
    place = np.zeros(most + 1, np.uint32)
    for i in range(len(late)):
        place[np.int64(late[i])] += np.uint32(1)
    total = np.uint32(0)
    for whole in range(len(place)):
        here = place[whole]
        place[whole] = total
        total += here
    order = np.empty(len(late), np.uint32)
    for i in range(len(late)):
        whole = np.int64(late[i])
        order[place[whole]] = i
        place[whole] += np.uint32(1)
    for i in range(1, len(late)):  # insertion: elements of one whole number are next to each other
        row, j = order[i], i
        while j > 0 and late[order[j - 1]] > late[row]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = row
    return order
