"""A sweep's results as a table, with a warning that the highest was picked on the scored images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tools.evaluation.results import percent

Result = tuple[Mapping[str, Any], Mapping[str, float]]
"""The settings that a score depends on, and the scores."""


def show(results: Sequence[Result], names: Sequence[str], title: str) -> str:
    """Return a table with a row for each result: the settings ``names``, then scores in percent.

    The last line names the highest first score and warns that it was picked on the scored images.
    """
    columns = list(results[0][1])
    table = Table()
    for name in (*names, *(column.replace("_", " ").replace("top", "top-") for column in columns)):
        table.add_column(name, justify="right")
    for settings, numbers in results:
        cells = [f"{settings[name]:g}" for name in names]
        table.add_row(*cells, *(percent(numbers[column]) for column in columns))
    console = Console(width=100)
    with console.capture() as text:
        console.print(table)
    best, numbers = max(results, key=lambda result: result[1][columns[0]])
    where = ", ".join(f"{name} {best[name]:g}" for name in names)
    highest = percent(numbers[columns[0]])
    return (
        f"{title}\n{text.get()}highest of {len(results)}: {highest} at {where}\n"
        "(picked on the images it is measured on: report a setting chosen beforehand)"
    )
