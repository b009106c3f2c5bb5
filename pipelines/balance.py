"""Sampling by weight: the weights of the rows, and an epoch drawn by them.

``--balance`` and ``balance=`` use labels to choose rows; no loss sees them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipelines.permutation import LARGE, sorted_by_hash
from pipelines.rng import ORDER, RowRng
from pipelines.system.shared import digest_of, one_copy

_PLACES, _STEPS, _START = ORDER + 4, ORDER + 5, ORDER + 6
"""Streams of random numbers: places in a batch, the order of the steps, where a grid starts."""
_FINE = 1 << 40
"""Units of a row that is in every step, about; the units of all rows fit 64 bits."""


@runtime_checkable
class Named(Protocol):
    """A source of rows with names."""

    def name(self, row: int) -> str:
        """Return the name of a row."""


@dataclass(frozen=True, eq=False)
class Balance:
    """Systematic sampling with probability proportional to weight (Madow 1949).

    A step of B rows holds row i with probability ``B w[i] / sum(w)``, and never twice. An epoch
    holds it that probability times the steps, rounded up or down; with equal weights therefore at
    most once. A row for which the probability would exceed 1 is in every step, and the others share
    the rest by weight.

    All rows are laid end to end in a random order, each as long as it weighs, and a step takes the
    rows at B equidistant places. The steps of an epoch divide that distance evenly, in a random
    order. Lengths are whole numbers, so that rounding cannot repeat a row.
    """

    weights: NDArray[np.float64]  # (N,), finite, not negative
    unused: int = 0
    """Lines of the file that name no image."""
    flag: str = "--balance"
    """The flag that gave the weights, for messages."""

    def __post_init__(self) -> None:
        if len(self.weights) >= LARGE:
            object.__setattr__(self, "weights", one_copy("weights", self.weights))

    @property
    def key(self) -> int:
        """A checksum of the weights, by which a saved position knows them; never 0."""
        return zlib.crc32(np.ascontiguousarray(self.weights).data) + 1

    @cached_property
    def digest(self) -> str:
        """A digest of the weights, by which the processes of a machine share an epoch."""
        return digest_of("balance ", self.weights)

    def check(self, num_rows: int, batch_size: int) -> None:
        """Refuse weights of other rows, and a batch that needs more rows than have a weight.

        Raises:
            ValueError: naming the flags.
        """
        if len(self.weights) != num_rows:
            raise ValueError(f"{self.flag}: {len(self.weights)} weights for {num_rows} images")
        positive = int((self.weights > 0).sum())
        if positive < batch_size:
            raise ValueError(
                f"{self.flag}: {positive} images have a weight above 0, and --batch-size "
                f"{batch_size} needs as many different ones"
            )

    def shuffled(self, batch_size: int, rng: RowRng) -> NDArray[np.int64]:
        """Return an epoch's rows in the order of their positions, (whole batches,)."""
        num_rows = len(self.weights)
        steps = num_rows // batch_size
        between = _FINE // steps  # places of two steps of the same number
        line = sorted_by_hash(rng, ORDER, num_rows)
        ends = np.cumsum(self.units(batch_size, between * steps)[line])
        start = int(rng.uniform(np.zeros(1, np.int64), _START, 1)[0, 0] * between)
        turn = np.argsort(rng.bits(np.arange(steps), _STEPS, 1)[:, 0], kind="stable")
        places = np.arange(steps * batch_size) * between + start  # of all steps, ascending
        found = line[np.searchsorted(ends, places, side="right")].reshape(batch_size, steps)
        rows = found.T[turn]
        late = rng.bits(np.arange(steps * batch_size), _PLACES, 1).reshape(steps, batch_size)
        turn = np.argsort(late, axis=1, kind="stable")
        return np.take_along_axis(rows, turn, axis=1).ravel().astype(np.int64, copy=False)

    def units(self, batch_size: int, most: int) -> NDArray[np.int64]:
        """Return the rows' lengths, (N,), which sum to ``batch_size * most``; none exceeds it."""
        share = self.probabilities(batch_size)
        units = np.floor(share * (1 - 2.0**-30) * most).astype(np.int64)
        units[share == 1] = most
        while (missing := batch_size * most - int(units.sum())) > 0:
            free = np.flatnonzero((self.weights > 0) & (units < most))
            each, rest = divmod(missing, len(free))
            units[free] = np.minimum(units[free] + each + (np.arange(len(free)) < rest), most)
        return units

    def probabilities(self, batch_size: int) -> NDArray[np.float64]:
        """Return the probability of each row to be in a step, (N,)."""
        capped = np.zeros(len(self.weights), np.bool_)
        while True:
            left, rest = batch_size - int(capped.sum()), self.weights[~capped].sum()
            share = np.where(capped, 1.0, left * self.weights / rest if rest else 0.0)
            above = (share > 1) & ~capped
            if not above.any():
                return share
            capped |= above

    def summary(self, batch_size: int) -> str:
        """Return what the weights do to an epoch, as a line of text."""
        share = self.probabilities(batch_size)
        times = share * (len(share) // batch_size)
        seen = times[times > 0]
        low, high = f"{seen.min():.2g}", f"{seen.max():.2g}"
        span = low if low == high else f"{low} to {high}"
        text = f"{self.flag[2:]}: an epoch shows an image {span} time{'' if span == '1' else 's'}"
        if never := len(times) - len(seen):
            text += f", and {never:,} of weight 0 never"
        if capped := int((share == 1).sum()):
            text += f"; {capped:,} are in every step, the most that a weight can do"
        if self.unused:
            text += f"; {self.unused:,} lines of the file name none of the images"
        return text


def balance_of(spec: str, label: NDArray[np.int64], source: Named) -> Balance:
    """Return the weight of each row.

    Args:
        spec: ``class`` gives every class the same weight, shared by its rows; else a file with one
            line a row, in the order of the rows, or lines ``NAME WEIGHT``.
        label: class of each row, (N,).
        source: names of the rows.

    Raises:
        ValueError: rows have no label or no weight, or the file is not one of weights.
    """
    if spec != "class":
        try:
            return _read(Path(spec).expanduser(), len(label), source)
        except ValueError as error:
            raise ValueError(f"--balance {spec}: {error}") from error
    if unlabelled := int((label < 0).sum()):
        raise ValueError(
            f"--balance class: {unlabelled:,} of {len(label):,} images have no class; --balance "
            "FILE takes a weight for each image"
        )
    _, number, count = np.unique(label, return_inverse=True, return_counts=True)
    return Balance(1 / count[number])


def _read(file: Path, num_rows: int, source: Named) -> Balance:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    lines = [line.strip() for line in text.splitlines()]
    given = [(n, line.rsplit(None, 1)) for n, line in enumerate(lines, 1) if line]
    numbers = np.array([_weight(n, words[-1]) for n, words in given], np.float64)
    names = [words[0] if len(words) > 1 else "" for _, words in given]
    if any(names):
        if "" in names:
            raise ValueError(f"line {given[names.index('')][0]} names no image, and others do")
        return _by_name(names, numbers, [source.name(row) for row in range(num_rows)])
    if len(numbers) != num_rows:
        raise ValueError(
            f"{len(numbers):,} weights for {num_rows:,} images: write one for each image, or lines "
            "'NAME WEIGHT'"
        )
    return Balance(numbers)


def _weight(number: int, word: str) -> float:
    try:
        weight = float(word)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < np.inf:
        raise ValueError(
            f"line {number}: {word!r} is no weight: a line holds a number of at least 0, or a name "
            "and the number"
        )
    return weight


def _by_name(names: list[str], numbers: NDArray[np.float64], rows: list[str]) -> Balance:
    """Return the weight of each row; a name is a path, or its end below any folder."""
    ends: dict[int, dict[tuple[str, ...], int]] = {}
    unused = 0
    weights = np.full(len(rows), np.nan)
    for name, number in zip(names, numbers, strict=True):
        parts = PurePath(name).parts
        if len(parts) not in ends:
            ends[len(parts)] = _rows_by_end(rows, len(parts))
        row = ends[len(parts)].get(parts)
        if row == _SEVERAL:
            raise ValueError(f"{name!r} ends the path of several images: write more of the path")
        if row is None:
            unused += 1
            continue
        if not np.isnan(weights[row]):
            raise ValueError(f"{name!r} has a second weight")
        weights[row] = number
    if (missing := np.flatnonzero(np.isnan(weights))).size:
        raise ValueError(
            f"{missing.size:,} of {len(rows):,} images have no weight, as {rows[missing[0]]}: "
            "write 'NAME WEIGHT' for each (0 leaves it out)"
        )
    return Balance(weights, unused)


_SEVERAL = -1


def _rows_by_end(rows: list[str], count: int) -> dict[tuple[str, ...], int]:
    """Return the row of each path's last ``count`` parts; several rows: ``_SEVERAL``."""
    found: dict[tuple[str, ...], int] = {}
    for number, name in enumerate(rows):
        end = PurePath(name).parts[-count:]
        found[end] = _SEVERAL if end in found else number
    return found
