"""Own augmentation: ``--aug.*``, numbers that replace those of ``--views``."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pipelines.views import View, ViewOverrides

NAMES = tuple(field.name for field in fields(ViewOverrides))


@dataclass(frozen=True)
class AugConfig(ViewOverrides):
    """Numbers that replace those of the published augmentation, for all views or for one."""

    views: tuple[str, ...] = ()
    """Numbers of single views, after those of all, as 1.solarize=0.2 2-7.scale=0.05,0.14."""

    def check(self, prefix: str = "--aug.") -> None:
        """Refuse numbers out of range, and words in ``views`` that name none.

        Raises:
            ValueError: naming the flag.
        """
        super().check(prefix)
        for word, _, overrides in _parsed(self.views):
            overrides.check(f"{prefix}views {word.partition('.')[0]}.")

    def applied(self, views: Sequence[View]) -> tuple[View, ...]:
        """Return the views with these numbers.

        Raises:
            ValueError: there is no view of that number.
        """
        changed = [self.apply(view) for view in views]
        for word, numbers, overrides in _parsed(self.views):
            if numbers.stop > len(views):
                raise ValueError(
                    f"--aug.views {word}: the views of the run are 0 to {len(views) - 1}"
                )
            for number in numbers:
                changed[number] = overrides.apply(changed[number])
        return tuple(changed)


def _parsed(words: Sequence[str]) -> Iterator[tuple[str, range, ViewOverrides]]:
    """Yield each word, the views it names, and the number it sets."""
    for word in words:
        which, dot, setting = word.partition(".")
        name, equals, value = setting.partition("=")
        name = name.replace("-", "_")
        first, _, last = which.partition("-")
        if not (dot and equals and first.isdecimal() and (last or first).isdecimal()):
            raise ValueError(
                f"--aug.views {word}: write VIEW.NAME=NUMBER, as 1.solarize=0.2, or "
                "VIEW-VIEW.NAME=NUMBER,NUMBER, as 2-7.scale=0.05,0.14"
            )
        if name not in NAMES:
            known = " ".join(name.replace("_", "-") for name in NAMES)
            raise ValueError(f"--aug.views {word}: choose from {known}")
        numbers = range(int(first), int(last or first) + 1)
        if not numbers:
            raise ValueError(f"--aug.views {word}: the smaller number comes first")
        yield word, numbers, ViewOverrides(**{name: _value(word, name, value)})


def _value(word: str, name: str, text: str) -> Any:
    """Return the number of a view, or as many as the view has of that name."""
    before = getattr(View(1), name)
    count = len(before) if isinstance(before, tuple) else 1
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        number = "a number" if count == 1 else f"{count} numbers, with commas"
        raise ValueError(f"--aug.views {word}: {name.replace('_', '-')} takes {number}")
    return numbers if count > 1 else numbers[0]


def check_crops(counts: Sequence[int], sizes: Sequence[int], scales: Sequence[float]) -> None:
    """Refuse ``--crops`` with some of what belongs to them.

    Raises:
        ValueError: naming the flag that is missing.
    """
    if any(low > high for low, high in zip(*[iter(scales)] * 2, strict=False)):
        raise ValueError(f"--crop-scales {_text(scales)}: the smaller of two scales comes first")
    if (sizes or scales) and not counts:
        given = "--crop-sizes" if sizes else "--crop-scales"
        raise ValueError(f"{given} needs --crops, the number of views of each size, as 2 6")
    if not sizes and not scales:
        if len(counts) > 2:
            raise ValueError(
                f"--crops {_text(counts)}: published sizes are two, so --crop-sizes and "
                "--crop-scales are needed"
            )
        return
    if len(sizes) != len(counts):
        raise ValueError(
            f"--crops {_text(counts)} needs --crop-sizes, {len(counts)} in all, not {len(sizes)}"
        )
    if len(scales) != 2 * len(counts):
        raise ValueError(
            f"--crops {_text(counts)} needs --crop-scales, a smallest and a largest for each size, "
            f"{2 * len(counts)} in all, not {len(scales)}"
        )


def _text(numbers: Sequence[float]) -> str:
    return " ".join(f"{number:g}" for number in numbers)


def words_of(views: Mapping[Any, Any]) -> list[str]:
    """Return the words of ``aug: {views: {1: {solarize: 0.2}}}``, as YAML may hold them.

    Raises:
        ValueError: a view holds no numbers by name.
    """
    words = []
    for which, numbers in views.items():
        if not isinstance(numbers, Mapping):
            raise ValueError(f"'aug.views.{which}' must hold numbers by name, as solarize: 0.2")
        for name, value in numbers.items():
            value = ",".join(map(str, value)) if isinstance(value, list | tuple) else value
            words.append(f"{which}.{name}={value}")
    return words
