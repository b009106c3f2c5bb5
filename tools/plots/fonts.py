"""Fonts for text in any script: installed ones as fallbacks, escapes for what none can draw."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator

log = logging.getLogger(__name__)

FALLBACKS = (
    *(f"Noto Sans CJK {region}" for region in ("JP", "SC", "TC", "KR", "HK")),
    *("Source Han Sans", "IPAexGothic", "IPAGothic", "TakaoGothic", "VL Gothic"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "Droid Sans Fallback", "AR PL UMing CN"),
    *("NanumGothic", "UnDotum", "Noto Sans", "Noto Sans Arabic", "Noto Naskh Arabic"),
    *("Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Thai"),
    *("Hiragino Sans", "PingFang SC", "Apple SD Gothic Neo", "Arial Unicode MS"),  # macOS
    *("Microsoft YaHei", "Yu Gothic", "MS Gothic", "Malgun Gothic", "Segoe UI"),  # Windows
    *("FreeSans", "GNU Unifont", "Unifont"),
)
"""Families with the letters that matplotlib's own font lacks, the best first."""


@functools.cache
def families() -> tuple[str, ...]:
    """Return matplotlib's own family, then the fallbacks that are installed.

    matplotlib takes each letter from the first family that has it.
    """
    installed = {font.name for font in fontManager.ttflist}
    return ("sans-serif", *(name for name in FALLBACKS if name in installed))


@functools.cache
def letters(names: tuple[str, ...]) -> frozenset[int]:
    """Return the code points that any of some families can draw."""
    found: set[int] = set()
    for name in names:
        path = fontManager.findfont(FontProperties(family=[name]))
        found |= get_font(path).get_charmap().keys()
    return frozenset(found)


def make_legible(figure: Figure) -> None:
    r"""Write letters that no installed font has as escapes, such as \u732b, instead of boxes."""
    drawable, replaced = letters(families()), []
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):  # it sets its labels' texts again when it is drawn
            if isinstance(axis.get_major_locator(), FixedLocator):
                names = [label.get_text() for label in axis.get_ticklabels()]
                shown = [escaped(name, drawable) for name in names]
                if shown != names:
                    axis.set_ticklabels(shown)
                    replaced += [name for name in names if name not in shown]
    for text in figure.findobj(Text):
        before = text.get_text()
        if (after := escaped(before, drawable)) != before:
            text.set_text(after)
            replaced.append(before)
    if replaced:
        _say_once(replaced)


def escaped(text: str, drawable: frozenset[int]) -> str:
    r"""Return text whose letters outside ``drawable`` are Python's escapes; others stay."""
    if text.isascii():
        return text
    return "".join(
        letter
        if ord(letter) in drawable or letter.isspace()
        else letter.encode("ascii", "backslashreplace").decode()
        for letter in text
    )


_told: set[str] = set()


def _say_once(texts: Sequence[str]) -> None:
    """Log that letters were escaped, once in a process."""
    if not _told:
        _told.add(texts[0])
        log.warning(
            "no installed font has all letters of %r (%d texts of a picture): they are written as "
            "escapes. Install a font that has them, such as Noto Sans CJK (fonts-noto-cjk on "
            "Debian and Ubuntu), and remove the folder that "
            "'python -c \"import matplotlib; print(matplotlib.get_cachedir())\"' prints",
            texts[0],
            len(texts),
        )
