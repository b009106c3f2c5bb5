"""Settings from and to words: the command line, YAML recipes, checkpoints."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import sys
from collections.abc import Sequence, Set
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.data_spec import join_sum
from tools.config.augment import words_of
from tools.config.config import MIX_NUMBERS, NUMBERS, Config, chooses, flag, numbers_of
from tools.config.data_sets import SUMMED, refuse_second_value, sum_repeated
from tools.config.other_names import refuse_other_names
from tools.config.parser import read_words
from tools.config.reason import reason_of
from tools.config.run_path import saved_settings
from tools.config.values import refuse_other_values

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def parse(argv: Sequence[str] | None = None) -> Config:
    """Read flags (default: the program's), over the recipe or the run to resume, if one is named.

    Raises:
        SystemExit: the flags do not parse; tyro has printed the flag and what it takes.
        ValueError: settings contradict each other, or the recipe is not one.
    """
    argv = sys.argv[1:] if argv is None else argv
    refuse_second_value(argv)
    argv = sum_repeated(argv)
    refuse_other_names(argv)
    refuse_other_values(argv)
    defaults = _defaults(argv)
    config = _refuse_not_chosen(read_words(argv, defaults), defaults)
    return dataclasses.replace(config, recipe=config.recipe and find_recipe(str(config.recipe)))


def _defaults(argv: Sequence[str]) -> Config:
    for word, following in itertools.zip_longest(argv, argv[1:], fillvalue=""):
        name, _, value = word.partition("=")
        path = value or following
        if name == "--recipe":
            return _from_yaml(find_recipe(path), f"--recipe {path}")
        if name == "--resume" and path != "auto":
            saved = saved_settings(Path(path))
            return _from_yaml(saved, f"--resume {path}: {saved}", saved=True)
    return Config()


def find_recipe(name: str) -> Path:
    """Return the file of a recipe, given by its path or by its name in recipes/, as photos.

    Raises:
        ValueError: there is none; the message names the closest.
    """
    given = Path(name).expanduser()
    if given.is_dir():
        inside = given / "config.yaml"
        hint = f": --recipe {inside}" if inside.is_file() else ""
        raise ValueError(f"--recipe {name} is a folder, not a file of settings{hint}")
    tried = [given, given.with_name(f"{given.name}.yaml")]
    if given.parent in (Path(), Path("recipes")):
        file = f"{given.name.removesuffix('.yaml')}.yaml"
        tried += [folder / file for folder in (Path("recipes"), RECIPES)]
    for path in tried:
        if path.is_file():
            return path
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    wanted = given.name.removesuffix(".yaml").removesuffix(".yml").replace("_", "-").lower()
    close = difflib.get_close_matches(wanted, names, 3, 0.5)
    close = close or [known for known in names if wanted in known][:3]
    hint = f"; closest: {', '.join(close)}" if close else ""
    raise ValueError(
        f"--recipe {name}: there is no such file, nor a recipe of that name{hint} "
        f"(docs/recipes.md lists all)"
    )


def _from_yaml(path: Path, origin: str, saved: bool = False) -> Config:
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{origin}: {error}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{origin} is not YAML: {reason_of(error)}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{origin} must hold one setting a line, 'name: value'")
    return from_saved(values, origin) if saved else from_dict(values, origin)


def _refuse_not_chosen(config: Config, defaults: Config) -> Config:
    """Refuse flags of what is not chosen; a recipe's numbers for others are dropped."""
    reset: dict[str, Any] = {}
    for name in ("block_rows", "window_blocks") if config.order != "blocks" else ():
        if getattr(config, name) != getattr(defaults, name):
            raise ValueError(f"{flag(name)} needs --order blocks")
        reset[name] = getattr(Config, name)  # a field's default
    if config.subset is None:
        if config.subset_seed != defaults.subset_seed:
            raise ValueError("--subset-seed needs --subset")
        reset["subset_seed"] = Config.subset_seed
    for owner in NUMBERS.keys() - _chosen(config):
        given, before = getattr(config, owner), getattr(defaults, owner)
        for f in dataclasses.fields(given):
            if getattr(given, f.name) != getattr(before, f.name):
                raise ValueError(f"{flag(f'{owner}.{f.name}')} needs {chooses(owner)}")
        reset[owner] = NUMBERS[owner]
    return dataclasses.replace(config, **reset)


def _chosen(config: Config) -> set[str]:
    """Return the fields whose numbers the run uses."""
    return {"aug", numbers_of(config.method), *(MIX_NUMBERS.get(mix, "") for mix in config.mixes)}


def from_dict(values: dict[str, Any], origin: str) -> Config:
    """Build settings from plain values, as YAML files and checkpoints hold them.

    The command line's own parser checks them; ``origin`` is named in errors.

    Raises:
        ValueError: a key is unknown (the nearest is suggested) or a value is not allowed.
    """
    _refuse_unknown(Config(), values, origin, "")
    try:
        words = _as_flags(values, "")
        refuse_other_values(words)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from error
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return read_words(words, Config())
        except SystemExit as error:
            raise ValueError(f"{origin}: {said.getvalue().strip()}") from error


ADDED_LATER: dict[str, Any] = {
    "zero_init_last": False,
    "freeze_patch_embed": False,
    "mix_terms": "add",
    "moco.batch_keys": False,
    "moco_v3.layers": 2,
    "moco_v3.predictor_norm": False,
    "simclr.n_pair": False,
    "byol.last_bias": True,
    "moco_v3.last_bias": True,
}
"""Settings that a saved run may lack because it is older, and what such a run did.

Only settings whose default is not what runs did before have a line here.
"""


def from_saved(values: dict[str, Any], origin: str) -> Config:
    """Build the settings of a saved run, as ``from_dict`` does; ``ADDED_LATER`` fills the gaps."""
    filled = {key: dict(v) if isinstance(v, dict) else v for key, v in values.items()}
    if "weight_decay" in filled:  # it was constant
        filled.setdefault("weight_decay_end", filled["weight_decay"])
    for name, before in ADDED_LATER.items():
        owner, _, setting = name.rpartition(".")
        part = filled.get(owner) if owner else filled
        if isinstance(part, dict):  # the numbers of methods not chosen are not saved
            part.setdefault(setting, before)
    return from_dict(filled, origin)


def _refuse_unknown(owner: Any, values: dict[str, Any], origin: str, prefix: str) -> None:
    names = [f.name for f in fields(owner)]
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"; did you mean '{prefix}{close[0].replace('_', '-')}'?" if close else ""
            raise ValueError(f"{origin}: unknown setting '{prefix}{key}'{hint}")
        if is_dataclass(getattr(owner, name)):
            if not isinstance(value, dict):
                raise ValueError(f"{origin}: '{prefix}{key}' must hold settings of its own")
            _refuse_unknown(getattr(owner, name), value, origin, f"{prefix}{key}.")


def _as_flags(values: dict[str, Any], prefix: str) -> list[str]:
    words: list[str] = []
    for key, value in values.items():
        name = prefix + str(key)
        if name == "aug.views" and isinstance(value, dict):
            value = words_of(value)
        if isinstance(value, dict):
            words += _as_flags(value, f"{name}.")
        elif value is False and name == "precision":  # YAML reads a bare no as False
            words.append("--precision=no")
        elif isinstance(value, bool):
            words.append(flag(name) if value else flag(_negated(name)))
        elif isinstance(value, list) and flag(name) in SUMMED:
            words.append(f"{flag(name)}={join_sum(map(str, value))}")
        elif isinstance(value, list | tuple):
            words += [flag(name), *map(str, value)] if value else []
        elif value is not None:
            words.append(f"{flag(name)}={value}")
    return words


def _negated(name: str) -> str:
    owner, dot, last = name.rpartition(".")
    return f"{owner}{dot}no-{last}"


def to_dict(config: Config) -> dict[str, Any]:
    """Return plain values that ``from_dict`` reads back: numbers, strings, lists, dicts.

    What belongs to one invocation alone is left out, and so are the methods not chosen.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    values = plain(dataclasses.asdict(config))
    leave_out = {f.name for f in fields(Config) if f.metadata.get("once")}
    leave_out |= NUMBERS.keys() - _chosen(config)
    if config.aug == NUMBERS["aug"]:
        leave_out.add("aug")
    return {name: value for name, value in values.items() if name not in leave_out}


def differences(now: Config, before: Config) -> list[str]:
    """Return each identity setting that differs, as ``--flag: before -> now``.

    Numbers that both runs measured follow from the others: they are listed only if they alone
    differ.
    """
    measured = {"mean", "std"} if now.normalize == before.normalize == "data" else set()
    return _unlike(now, before, measured) or _unlike(now, before, set())


def _unlike(now: Config, before: Config, leave_out: Set[str]) -> list[str]:
    lines = []
    for f in fields(now):
        if f.metadata.get("free") or f.name in leave_out:
            continue
        a, b = getattr(before, f.name), getattr(now, f.name)
        if is_dataclass(a):
            lines += [
                f"{flag(f'{f.name}.{g.name}')}: {getattr(a, g.name)} -> {getattr(b, g.name)}"
                for g in fields(a)
                if getattr(a, g.name) != getattr(b, g.name)
            ]
        elif a != b:
            lines.append(f"{flag(f.name)}: {a} -> {b}")
    return lines
