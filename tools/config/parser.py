"""The command line's parser: words in, settings out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from typing import Annotated, Any, get_type_hints

import tyro
from tyro.conf import OmitArgPrefixes

from tools.config.config import NUMBERS, Config
from tools.config.sections import SECTIONS

Grouped = make_dataclass(
    "Grouped",
    [
        *((section.title, Annotated[section, OmitArgPrefixes]) for section in SECTIONS),
        *((name, type(default)) for name, default in NUMBERS.items()),
    ],
    frozen=True,
)
"""``Config`` as the command line shows it: a group of flags for each section."""
Grouped.__module__ = (
    "builtins"  # has no source: tyro would search it for every field, half its time
)
DESCRIPTION = f"""{Config.__doc__}

Examples:
    python train.py --data folder:IMAGES --dry-run
    accelerate launch train.py --method swav --mix region
    accelerate launch train.py --recipe cifar10-host --resume auto
"""
"""What ``train.py --help`` prints first; an indented line stays on a line of its own."""


def read_words(words: Sequence[str], defaults: Config) -> Config:
    """Read flags; the settings that they leave out are those of ``defaults``.

    Raises:
        SystemExit: the words ask for help or do not parse; tyro has said so.
        ValueError: settings contradict each other.
    """
    found = read_named(words, defaults)
    return read_all(words, defaults) if found is None else found


def read_named(words: Sequence[str], defaults: Config) -> Config | None:
    """Read flags with a parser of these flags alone, which is made in a tenth of the time.

    Returns:
        What ``read_all`` returns; None if it would end in help or an error, which are its to print.
    """
    names = [_named(word) for word in words if word.startswith("--")]
    hints = type_hints()
    if not hints.keys() >= set(names):
        return None
    kind = make_dataclass("Named", [(name, hints[name]) for name in hints if name in names])
    kind.__module__ = "builtins"  # has no source to search
    default = kind(**{f.name: getattr(defaults, f.name) for f in fields(kind)})
    nothing = io.StringIO()
    with contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):
        try:
            found = tyro.cli(kind, args=words, default=default)
        except SystemExit:
            return None
    return dataclasses.replace(defaults, **vars(found))


@functools.cache
def type_hints() -> dict[str, Any]:
    """Return the type of each field of ``Config``, with its range."""
    hints = get_type_hints(Config, include_extras=True)
    return {f.name: hints[f.name] for f in fields(Config)}


def _named(word: str) -> str:
    """Return the field that a flag sets: ``--moco.queue=8`` is in moco's; --no-x turns x off."""
    name = word[2:].partition("=")[0].replace("-", "_").partition(".")[0]
    return name if name in type_hints() else name.removeprefix("no_")


def read_all(words: Sequence[str], defaults: Config) -> Config:
    """Read flags with the parser of all, which prints the help, and says what is wrong."""
    settings = {f.name: getattr(defaults, f.name) for f in fields(defaults)}
    parts = {
        section.title: section(**{f.name: settings.pop(f.name) for f in fields(section)})  # type: ignore[arg-type]
        for section in SECTIONS
    }
    grouped = tyro.cli(
        Grouped, args=words, default=Grouped(**parts, **settings), description=DESCRIPTION
    )
    numbers = {name: getattr(grouped, name) for name in NUMBERS}
    given = [vars(getattr(grouped, section.title)) for section in SECTIONS]
    return Config(**numbers, **{name: value for part in given for name, value in part.items()})
