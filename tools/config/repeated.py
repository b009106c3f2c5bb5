"""Flags that may be given several times: ``--data A --data B`` is ``--data 'A + B'``."""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.data_spec import join_sum

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
