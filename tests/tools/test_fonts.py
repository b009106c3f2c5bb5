"""Class names in any script: drawn by an installed font that has them, escaped otherwise."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.text import Text

from tools.plots import fonts, style

CAT = "\u732b"  # in Japanese and Chinese
NAMES = [CAT, "\uace0\uc591\uc774", "chat \u00e9t\u00e9", "\u043a\u043e\u0448\u043a\u0430"]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has drawn nothing, on a machine with matplotlib's own fonts."""
    monkeypatch.setattr(fonts, "FALLBACKS", ())
    monkeypatch.setattr(fonts, "_told", set())
    fonts.families.cache_clear()
    yield
    monkeypatch.undo()
    fonts.families.cache_clear()


def drawn(names: list[str], path: Path) -> list[str]:
    """Save a picture with these names and return its texts; warnings are errors."""
    figure = style.sheet(2, 2)
    style.name_rows(figure.add_subplot(), names)
    style.save(figure, path)
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_what_no_font_has_is_escaped_and_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        texts = drawn(NAMES, tmp_path / "a.png")
        drawn(NAMES, tmp_path / "b.png")
    assert {r"\u732b", r"\uace0\uc591\uc774", NAMES[2], NAMES[3]} <= {*texts}
    (record,) = caplog.records
    assert CAT in record.getMessage() and "fonts-noto-cjk" in record.getMessage()


def test_what_the_font_has_is_left_alone_and_not_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert {*NAMES[2:]} <= {*drawn(NAMES[2:], tmp_path / "a.svg")}
    assert caplog.records == []


def test_an_installed_font_with_the_letter_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """matplotlib ships a second font, which stands for an installed one."""
    own = fonts.letters(("sans-serif",))
    monkeypatch.setattr(fonts, "FALLBACKS", ("Not Installed", "STIXGeneral"))
    fonts.families.cache_clear()
    assert fonts.families() == ("sans-serif", "STIXGeneral")
    letter = chr(min(fonts.letters(("STIXGeneral",)) - own - set(range(256))))
    monkeypatch.setitem(style.STYLE, "font.family", list(fonts.families()))
    with style.rc_context(style.STYLE), caplog.at_level(logging.WARNING):
        assert letter in drawn([letter], tmp_path / "a.png")
    assert caplog.records == []


def test_escapes_are_pythons() -> None:
    assert fonts.escaped(f"a {CAT}\n\U0001f408", frozenset(b"a")) == "a \\u732b\n\\U0001f408"
