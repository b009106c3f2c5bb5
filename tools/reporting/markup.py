"""Small pieces of HTML. Whatever comes from outside is escaped here, and nowhere else."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


def text(value: object) -> str:
    """Return a value as text of the page: nothing in it is markup."""
    return html.escape(str(value), quote=False)


def attribute(value: object) -> str:
    """Return a value for the inside of a double-quoted attribute."""
    return html.escape(str(value), quote=True)


def prose(value: str) -> str:
    """Return a sentence, in which `this` is set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text(value))


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()
) -> str:
    """Return a table that scrolls where the screen is narrow; ``numbers`` are columns of digits."""
    kinds = [' class="num"' if place in numbers else "" for place in range(len(head))]
    top = "".join(f'<th scope="col"{k}>{text(h)}</th>' for k, h in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{text(c)}</td>" for k, c in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="scroll" tabindex="0"><table><thead><tr>'
        f"{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def section(name: str, title: str, body: str) -> str:
    """Return a section with its heading; one without a body is left out."""
    if not body:
        return ""
    return f'<section id="{attribute(name)}"><h2>{text(title)}</h2>{body}</section>'


def figure(title: str, body: str) -> str:
    """Return a chart with its caption above; one without a body is left out."""
    return f"<figure><figcaption>{text(title)}</figcaption>{body}</figure>" if body else ""


def picture(source: str, said: str, width: int, height: int, kind: str = "") -> str:
    """Return an image out of a ``data:`` address; ``said`` is what it shows."""
    return (
        f'<img src="{attribute(source)}" alt="{attribute(said)}" width="{width}" '
        f'height="{height}" class="{attribute(kind)}">'
    )


def note(value: str) -> str:
    """Return a small remark."""
    return f'<p class="note">{prose(value)}</p>'


def fold(summary: str, body: str) -> str:
    """Return what is unfolded by a tap."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def page(title: str, body: str, style: str) -> str:
    """Return the whole page; it may load nothing, and runs nothing."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )
