"""Values that a flag does not take, refused in a line that names those it does."""

from __future__ import annotations

import difflib
import itertools
import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from tools.config.config import NUMBERS
from tools.config.parser import type_hints

SWITCHES = ("true", "false", "1", "0", "yes", "no", "on", "off")
"""What other programs let follow a flag that is on or off."""


def refuse_other_values(words: Sequence[str]) -> None:
    """Refuse a choice that there is none of, a switch with a value, and numbers with commas.

    What else a flag does not take is left to the parser.

    Raises:
        ValueError: the text names the flag, the value, and what is taken instead.
    """
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        name, equals, value = word.partition("=")
        if name.startswith("--"):
            _check(name, value if equals else following, bool(equals))


def _check(name: str, value: str, joined: bool) -> None:
    hint = _plain(_hint_of(name[2:].replace("-", "_")))
    if hint is bool and (joined or value.lower() in SWITCHES):
        off = f"--no-{name[2:]}"
        raise ValueError(f"{name} takes no value, as {value!r}: {name} turns it on, {off} off")
    if get_origin(hint) is Literal and value and not value.startswith("--"):
        choices = [str(choice) for choice in get_args(hint)]
        if value not in (*choices, "None"):
            close = nearest(value, choices)
            hint_at = f"did you mean {close}? " if close else ""
            raise ValueError(f"{name} {value}: {hint_at}The choices are {', '.join(choices)}")
    numbers = get_origin(hint) is tuple and {*map(_plain, get_args(hint))} <= {int, float, ...}
    if numbers and "," in value and not value.startswith("--"):
        apart = " ".join(value.replace(",", " ").split())
        raise ValueError(f"{name} {value}: numbers are separated by spaces, as {name} {apart}")


def nearest(word: str, names: Sequence[str]) -> str | None:
    """Return the name that a word is most like, whatever its case; None if it is like none."""
    plain = {name.lower().replace("_", "-"): name for name in names}
    wanted = word.lower().replace("_", "-")
    longer = [name for name in plain if name.startswith(wanted)] if wanted else []
    close = longer or difflib.get_close_matches(wanted, plain, 1)
    return plain[close[0]] if close else None


def _hint_of(name: str) -> Any:
    """Return the type of a setting, or of OWNER.SETTING; None if there is no such setting."""
    owner, dot, field = name.partition(".")
    if not dot:
        return type_hints().get(name)
    return get_type_hints(type(NUMBERS[owner])).get(field) if owner in NUMBERS else None


def _plain(hint: Any) -> Any:
    """Return a type without its range, and without None if there is one other."""
    if get_origin(hint) is Annotated:
        return _plain(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        rest = [part for part in get_args(hint) if part is not type(None)]
        return _plain(rest[0]) if len(rest) == 1 else hint
    return hint
