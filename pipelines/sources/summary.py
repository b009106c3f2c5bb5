"""What the images of a folder are, in one line: formats, depths, transparency, what is left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sources.depth import Range
from pipelines.sources.headers import Headers
from pipelines.sources.image_file import Header, ImageRules
from pipelines.sources.listing import LeftOut
from pipelines.system.units import counted


@dataclass(frozen=True, slots=True)
class Summary:
    """The readable images by kind, and the numbers of all other files."""

    kinds: Counter[Header]
    """Images of each kind; height and width are 0."""
    bad: int
    """Images that cannot be read."""
    left_out: LeftOut
    rules: ImageRules

    @property
    def images(self) -> int:
        """Number of readable images: files, or pages with ``pages="all"``."""
        return sum(self.kinds.values())

    def text(self) -> str:
        """Return one line: ``96 images: 80 JPEG, 16 PNG (12 with alpha, on white)`` and so on."""
        groups: dict[str, Counter[Header]] = {}
        for kind, count in self.kinds.items():
            depth = f" {kind.bits}-bit" if kind.bits > 8 else ""
            name = f"{kind.format}{depth}{' float' if kind.is_float else ''}"
            groups.setdefault(name, Counter())[kind] += count
        ordered = sorted(groups.items(), key=lambda item: (-sum(item[1].values()), item[0]))
        parts = [f"{sum(group.values()):,} {name}{self._notes(group)}" for name, group in ordered]
        line = f"{counted(self.images, 'image')}: {', '.join(parts)}"
        if self.bad:
            line += f"; {self.bad:,} cannot be read"
        if left_out := self.left_out.text():
            line += f"; left out: {left_out}"
        return line

    def _notes(self, group: Counter[Header]) -> str:
        """Return what becomes of a group's images, in parentheses, where it is not obvious."""
        notes = []
        if alpha := sum(count for kind, count in group.items() if kind.has_alpha):
            how = f"on {self.rules.background}" if self.rules.channels in (1, 3) else "kept"
            notes.append(f"{alpha:,} with alpha, {how}")
        if many := sum(count for kind, count in group.items() if kind.pages > 1):
            notes.append(f"{many:,} of several pages")
        if limits := self._limits(group):
            notes.append(f"{limits[0]:,.10g} to {limits[1]:,.10g} scaled to 0 to 255")
        return f" ({'; '.join(notes)})" if notes else ""

    def _limits(self, group: Counter[Header]) -> Range | None:
        """Return the samples that become 0 and 255, unless each file declares its range."""
        rules, kind = self.rules, next(iter(group))
        if kind.bits <= 8:
            return None
        if rules.depth_range is not None or all(kind.declared for kind in group):
            return rules.depth_range
        return rules.float_range if kind.is_float else rules.int_range


def summarize(
    headers: Headers, rules: ImageRules, left_out: LeftOut, is_good: NDArray[np.bool_]
) -> Summary:
    """Count the kinds of the rows that can be read, ``is_good`` (n,)."""
    numbers = Counter(headers.kind[is_good].tolist())
    kinds = Counter({headers.kinds[number]: count for number, count in numbers.items()})
    return Summary(kinds, int((~is_good).sum()), left_out, rules)
