"""Several data sets: ``--data A --data B`` is ``--data 'A + B'``, and their weights."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines.data_spec import is_spec, join_sum, split_sum
from pipelines.system.units import counted

if TYPE_CHECKING:
    from tools.config.config import Config

SUMMED = ("--data", "--val-data")


def sum_repeated(words: Sequence[str], flags: Sequence[str] = SUMMED) -> list[str]:
    """Return the words of a command line with one flag for all that name data.

    >>> sum_repeated(["--data", "folder:a", "--seed", "1", "--data=b.beton"])
    ['--data=folder:a + b.beton', '--seed', '1']
    """
    values: dict[str, list[str]] = {flag: [] for flag in flags}
    places: dict[str, int] = {}
    rest: list[str] = []
    listed = iter(words)
    for word in listed:
        name, equals, value = word.partition("=")
        flag = name.replace("_", "-")
        if flag not in values:
            rest.append(word)
            continue
        following = value if equals else next(listed, None)
        if following is None:  # the parser names what is missing
            rest.append(word)
            continue
        if flag not in places:
            places[flag] = len(rest)
            rest.append("")
        values[flag].append(following)
    for flag, place in places.items():
        rest[place] = f"{flag}={join_sum(values[flag])}"
    return rest


def refuse_second_value(words: Sequence[str]) -> None:
    """Refuse a second data set after one flag, as a shell makes of a pattern without quotes.

    Raises:
        ValueError: naming the flags to write.
    """
    for flag, first, second in zip(words, words[1:], words[2:], strict=False):
        if flag in SUMMED and not first.startswith("--") and is_spec(second):
            raise ValueError(
                f"{flag} {first} {second}: each data set has its own flag, as in "
                f"{shlex.join([flag, first, flag, second])}; a pattern is written in quotes"
            )


def check_data_weights(config: Config) -> None:
    """Refuse weights that are not one for each data set, or a second choice of the rows.

    Raises:
        ValueError: naming the flags.
    """
    weights = config.data_weights
    if not weights:
        return
    text = f"--data-weights {' '.join(f'{weight:g}' for weight in weights)}"
    sets = split_sum(config.data)
    if len(sets) != len(weights):
        raise ValueError(
            f"{text}: {counted(len(weights), 'weight')} for {counted(len(sets), 'data set')} of "
            f"--data ({', '.join(sets)}): give one for each"
        )
    if len(sets) == 1 or not any(weights):
        why = "one data set needs no weight" if any(weights) else "one must be above 0"
        raise ValueError(f"{text}: {why}")
    if config.order == "blocks":
        raise ValueError(f"{text} draws single rows: it needs --order random")
    if config.balance is not None:
        raise ValueError(
            f"{text} and --balance {config.balance} both say how often a row is drawn: choose one; "
            "a FILE for --balance can hold the product"
        )
