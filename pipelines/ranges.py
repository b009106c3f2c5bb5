"""The range of a setting, declared in its annotation: ``epochs: Count``, ``share: Share``."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_type_hints


@dataclass(frozen=True)
class Range:
    """Finite numbers with ``low <= number <= high``.

    With ``above``, ``low < number``; with ``below``, ``number < high``.
    """

    low: int | float = -math.inf
    high: int | float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: int | float) -> bool:
        least = number > self.low if self.above else number >= self.low
        most = number < self.high if self.below else number <= self.high
        return least and most and math.isfinite(number)

    def __str__(self) -> str:
        least = f"above {self.low}" if self.above else f"at least {self.low}"
        most = f"below {self.high}" if self.below else f"at most {self.high}"
        bounds = [] if math.isinf(self.low) else [least]
        bounds += [] if math.isinf(self.high) else [most]
        return " and ".join(bounds) or "finite"


Count = Annotated[int, Range(1)]
WholeNumber = Annotated[int, Range(0)]
Key = Annotated[int, Range(0, 2**63 - 1)]
"""A seed of random numbers."""
Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]
Finite = Annotated[float, Range()]


def check_ranges(settings: object, prefix: str = "--") -> None:
    """Refuse numbers outside the ranges of their fields, infinities and NaN; None passes.

    Args:
        settings: a dataclass; each number of a tuple is checked.
        prefix: text before a field's name that makes it a flag.

    Raises:
        ValueError: a number is refused; the text has the flag, the range and the number.
    """
    kind: Any = type(settings)
    for name, allowed in ranges_of(kind).items():
        value = getattr(settings, name)
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and number not in allowed:
                flag = prefix + name.replace("_", "-")
                unbounded = math.isinf(allowed.high) and str(allowed) != "finite"
                finite = "finite and " if unbounded and not math.isfinite(number) else ""
                raise ValueError(f"{flag} must be {finite}{allowed}, not {number}")


@functools.cache
def ranges_of(settings: type) -> dict[str, Range]:
    """Return the range of each field of a dataclass that declares one."""
    hints = get_type_hints(settings, include_extras=True)
    found = {field.name: _range_in(hints[field.name]) for field in dataclasses.fields(settings)}
    return {name: allowed for name, allowed in found.items() if allowed is not None}


def _range_in(hint: Any) -> Range | None:
    """Return the range inside a hint such as ``Share | None`` or ``tuple[Share, ...]``."""
    if isinstance(hint, Range):
        return hint
    parts = (*get_args(hint), *getattr(hint, "__metadata__", ()))
    return next((found for part in parts if (found := _range_in(part))), None)
