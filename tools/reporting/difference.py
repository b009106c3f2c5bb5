"""The smallest set of flags that gives a run's settings, over its recipe or the defaults."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from pipelines.data_facts import DataFacts
from tools.config.cli import parse
from tools.config.config import Config, flag
from tools.config.resolve import resolve
from tools.runs.run_dir import RECIPE

ALWAYS = ("method", "mix", "data")
PLACE = ("output",)
"""Settings of paths and names, which do not affect training."""


@dataclass(frozen=True)
class SettingDifference:
    """A setting whose value differs from that of the base."""

    name: str
    value: Any
    before: Any

    @property
    def words(self) -> list[str]:
        """The flag and its value, as words of a command line."""
        if isinstance(self.value, bool):
            owner, dot, last = self.name.rpartition(".")
            return [flag(self.name if self.value else f"{owner}{dot}no-{last}")]
        many = self.value if isinstance(self.value, tuple) else (self.value,)
        return [flag(self.name), *map(str, many)]


def recipe_of(folder: Path) -> Path | None:
    """Return the recipe that a run's config.yaml names, or None if there is none or it is gone."""
    try:
        with (folder / "config.yaml").open(encoding="utf-8") as file:
            line = file.readline()
    except (OSError, UnicodeDecodeError):
        return None
    found = re.fullmatch(re.escape(RECIPE) + r"(.+)\n?", line)
    path = Path(found[1]) if found else None
    return path if path and path.is_file() else None


def differences(config: Config, recipe: Path | None, facts: DataFacts) -> list[SettingDifference]:
    """Return the smallest set of changes to the recipe or the defaults that gives ``config``.

    ``config`` is resolved. Both sides are resolved as in a run, so values that are derived from
    other settings are not listed.
    """
    base = parse([word for words in _beginning(config, recipe) for word in words])
    begun = _filled(base, facts)
    wanted, before = _flat(config), _flat(begun)
    needed = [name for name in wanted if before[name] != wanted[name]]
    for name in list(needed):
        fewer = [other for other in needed if other != name]
        if _gives(base, {other: wanted[other] for other in fewer}, wanted, facts):
            needed = fewer
    return [SettingDifference(name, wanted[name], before[name]) for name in needed]


def _filled(config: Config, facts: DataFacts) -> Config:
    return resolve(config, facts, config.precision or "no")


def _gives(base: Config, given: dict[str, Any], wanted: dict[str, Any], facts: DataFacts) -> bool:
    try:
        return _flat(_filled(with_values(base, given), facts)) == wanted
    except ValueError:  # settings that are valid only together
        return False


def with_values(config: Config, given: dict[str, Any]) -> Config:
    """Return a copy of the settings with ``values``, whose keys are dotted names."""
    top = {name: value for name, value in given.items() if "." not in name}
    for owner in {name.split(".")[0] for name in given if "." in name}:
        inner = {n.split(".")[1]: v for n, v in given.items() if n.startswith(f"{owner}.")}
        top[owner] = dataclasses.replace(getattr(config, owner), **inner)
    return dataclasses.replace(config, **top)


def _flat(config: Config) -> dict[str, Any]:
    """Return the settings that affect training, by dotted names."""
    values: dict[str, Any] = {}
    for f in fields(config):
        value = getattr(config, f.name)
        if f.metadata.get("once") or f.name in PLACE:
            continue
        if is_dataclass(value):
            values |= {f"{f.name}.{g.name}": getattr(value, g.name) for g in fields(value)}
        else:
            values[f.name] = value
    return values


def command(config: Config, recipe: Path | None, found: Sequence[SettingDifference]) -> str:
    """Return a command that trains with the same settings, with one flag a line."""
    flags = [*_beginning(config, recipe), *(one.words for one in found)]
    return " \\\n    ".join(["accelerate launch train.py", *map(shlex.join, flags)])


def _beginning(config: Config, recipe: Path | None) -> list[list[str]]:
    """Return the flags that are always given."""
    flags = [["--recipe", str(recipe)]] if recipe else []
    return flags + [[flag(name), str(getattr(config, name))] for name in ALWAYS]
