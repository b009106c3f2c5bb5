"""Fixed subsets of a data set; the rows are a pure function of the labels and a seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipelines.rng import ORDER, RowRng
from pipelines.sources.files import Files
from pipelines.sources.splits import why_unlabelled
from pipelines.sources.table import Table

_SUBSET = ORDER + 3
"""The stream of random numbers from which ``--subset`` chooses."""
_HELD_OUT = ORDER + 5
"""The stream from which ``--val-fraction`` chooses."""


@runtime_checkable
class Choice(Protocol):
    """The settings that choose the rows of ``--data``."""

    @property
    def val_fraction(self) -> float | None:
        """Share of each class that is scored instead of trained on."""

    @property
    def subset(self) -> float | None:
        """Share or number of each class that is trained on."""

    @property
    def subset_seed(self) -> int:
        """Seed of both choices."""


def divide(table: Table, choice: Choice) -> tuple[Table, Table | None]:
    """Return the images to train on, and those held out of them; None without ``val_fraction``.

    Raises:
        ValueError: as ``hold_out`` and ``take_subset``.
    """
    val = None
    if choice.val_fraction is not None:
        table, val = hold_out(table, choice.val_fraction, choice.subset_seed)
    if choice.subset is not None:
        table = take_subset(table, choice.subset, choice.subset_seed)
    return table, val


def take_subset(table: Table, amount: float, seed: int) -> Table:
    """Take a share or a number of the images of each class, in the table's order.

    Images without a label count as one more class, of which only a share can be taken. The subset
    of a smaller amount is contained in that of a larger one.

    Args:
        table: the images; the choice depends on the order of its rows.
        amount: up to 1 a share (1: all), above 1 a whole number of images.
        seed: seed of the choice.

    Raises:
        ValueError: a class has fewer images, or a number is given for images without labels.
    """
    if amount > 1:
        _refuse_too_many(table, int(amount))
        return table.take(rows_of_each(table.label, lambda _: int(amount), seed, _SUBSET))
    return table.take(rows_of_each(table.label, lambda n: share_of(n, amount), seed, _SUBSET))


def hold_out(table: Table, share: float, seed: int) -> tuple[Table, Table]:
    """Divide the images into those to train on and those to score, both in the table's order.

    A share of each class's images is scored: at least one, and never all. Images without a label
    are trained on.

    Args:
        table: the images; the choice depends on the order of its rows.
        share: share of each class that is scored, between 0 and 1.
        seed: seed of the choice.

    Raises:
        ValueError: there are no labels, or no class has two images.
    """
    if not (table.label >= 0).any():
        why = "no image has a label"
        if isinstance(table.source, Files) and table.source.listed is None:
            why = why_unlabelled(table.source.root, table.source.names)
        raise ValueError(f"--val-fraction {share:g} needs class folders: {why}")
    chosen = rows_of_each(table.label, lambda n: min(share_of(n, share), n - 1), seed, _HELD_OUT)
    scored = np.zeros(len(table), bool)
    scored[chosen] = True
    scored &= table.label >= 0
    if not scored.any():
        raise ValueError(f"--val-fraction {share:g}: no class has two images")
    return table.take(np.flatnonzero(~scored)), table.take(np.flatnonzero(scored))


def _refuse_too_many(table: Table, number: int) -> None:
    for label in range(-1, max(len(table.classes), int(table.label.max(initial=-1)) + 1)):
        count = int((table.label == label).sum())
        if label < 0 and count:
            raise ValueError(
                f"--subset {number} takes images of each class, and {count:,} images have no "
                "label: take a share, as --subset 0.1"
            )
        if label >= 0 and count < number:
            raise ValueError(
                f"--subset {number}: class {table.class_name(label)!r} has {count:,} images"
            )


def share_of(count: int, share: float) -> int:
    """Return a share of a number of images, rounded half up, at least one."""
    return max(math.floor(count * share + 0.5), 1)


def rows_of_each(
    label: NDArray[np.int64], count: Callable[[int], int], seed: int, stream: int
) -> NDArray[np.int64]:
    """Choose rows of each label by a hash of (seed, row); ascending.

    Args:
        label: labels of the whole table, (rows,); -1 is a label like any other.
        count: returns the number of chosen rows of a label with n rows.
        seed: seed of the choice.
        stream: the stream of ``RowRng``.
    """
    late = RowRng(seed, 0).bits(np.arange(len(label)), stream, 1)[:, 0]
    chosen = [np.zeros(0, np.int64)]
    for name in np.unique(label):
        rows = np.flatnonzero(label == name)
        chosen.append(rows[np.argsort(late[rows], kind="stable")[: count(len(rows))]])
    return np.sort(np.concatenate(chosen))
