"""The side of the largest views as a function of the step; smaller views keep their side."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

FINE_BELOW = 96
"""Below this side in pixels, intermediate sides are multiples of 4; above, of 32."""
_SCALE = (1 << 20) + 1
"""The stream of random numbers from which a step's side is drawn."""


@dataclass(frozen=True)
class Progressive:
    """A side that grows linearly with the epoch, ``first`` to ``last``, constant inside an epoch.

    Sides in between are rounded to a multiple of 32, or of 4 if ``last`` is below 96. A run of one
    epoch has the last side.
    """

    first: int
    last: int
    epochs: int
    steps_per_epoch: int

    def side(self, step: int) -> int:
        """Return the side in a step's epoch."""
        epoch = min(step // self.steps_per_epoch, self.epochs - 1)
        share = epoch / (self.epochs - 1) if self.epochs > 1 else 1.0
        if share in (0, 1):
            return self.last if share else self.first
        exact = self.first + share * (self.last - self.first)
        unit = 4 if self.last < FINE_BELOW else 32
        nearest = math.floor(exact / unit + 0.5) * unit
        return min(max(nearest, self.first), self.last)

    @property
    def sides(self) -> tuple[int, int]:
        """First and last side."""
        return self.first, self.last


@dataclass(frozen=True)
class MultiScale:
    """One of ``choices`` in each step, drawn from (seed, step) and so the same on every rank."""

    choices: tuple[int, ...]
    seed: int

    def side(self, step: int) -> int:
        """Return the side drawn for a step."""
        rng = np.random.default_rng([self.seed, step, _SCALE])
        return self.choices[int(rng.integers(len(self.choices)))]

    @property
    def sides(self) -> tuple[int, int]:
        """Smallest and largest choice."""
        return min(self.choices), max(self.choices)


Resolution = Progressive | MultiScale
"""``side(step)`` is the side of a step; ``sides`` are the smallest and the largest one."""


def parse_schedule(text: str) -> tuple[int, int]:
    """Return the first and the last side of the text ``FIRST:LAST``.

    Raises:
        ValueError: the text has another form, or the sides shrink.
    """
    found = re.fullmatch(r"(\d{1,5}):(\d{1,5})", text)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 0 < first <= last:
        raise ValueError(
            f"--resolution-schedule {text} must be FIRST:LAST, two sides in pixels that do not "
            "shrink, as 160:224 (in quotes in YAML)"
        )
    return first, last
