"""Compare runs: scores, their spread over seeds, and what a mixture adds to its method.

Examples:
    python tools/compare.py runs/* --output compare.png
    python tools/compare.py runs/* --protocol linear --markdown
    python tools/compare.py docs/results/cifar10-10k/*.json    # files of tools/collect.py
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console
from rich.table import Table

from tools.plots import style
from tools.plots.comparison import ScoreRow, draw_scores
from tools.runs.command import command
from tools.runs.comparison import (
    Difference,
    Group,
    base_of,
    beyond,
    difference,
    group,
    name_of,
)
from tools.runs.locate import RunArguments
from tools.runs.scores import ONLINE, Scored, alike, read_scores, text_of


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Compare runs by scores of one protocol; runs that differ only in the seed share a row."""

    protocol: str | None = None
    """A protocol of eval.py, as knn or linear; or online, train.py's last kNN score (default: knn
    if all runs have it, else online)."""
    score: str | None = None
    """Name of the score, such as knn_top5, or of a measure, such as linear_confidence (default: the
    protocol's first score, top-1)."""
    base: tuple[str, ...] = ("mix=none",)
    """Settings of the base, with which the other rows are compared, as clim.rule=random."""
    output: Path | None = None
    """Also draw the scores as this .png, .pdf or .svg."""
    json: bool = False
    """Print JSON instead of a table."""
    markdown: bool = False
    """Print Markdown instead of a table."""


@dataclass(frozen=True)
class Row:
    """A group with its name and, if it has a base, the base and the difference from it."""

    name: str
    group: Group
    is_base: bool
    base: Group | None
    difference: Difference | None


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table and draw the picture; return the exit status."""
    return command(
        "tools/compare.py", lambda: compare(tyro.cli(Arguments, args=argv, description=__doc__))
    )


def compare(args: Arguments) -> None:
    """Read the scores of runs, compare and print them.

    Raises:
        ValueError: the runs cannot be compared; the message names two of them and the reason.
    """
    if args.json and args.markdown:
        raise ValueError("--json and --markdown exclude each other")
    if args.output:
        style.check_output(args.output)
    scored = read(args.records, args.protocol, args.score)
    rows = rows_of(group(scored), parse_base(args.base))
    how = caption(scored)
    if args.json:
        print(json.dumps(plain(rows, scored[0]), indent=2))
    elif args.markdown:
        print(markdown(rows, how))
    else:
        show(rows, how)
    if args.output:
        style.save(draw_scores(drawn(rows), how), args.output)
        if not args.json:
            print(args.output)


def read(runs: Sequence[Path], protocol: str | None, score: str | None) -> list[Scored]:
    """Return one score of each run, all by the same protocol.

    Raises:
        ValueError: a run has no score, the protocols differ, or a run is named twice.
    """
    places = [run.resolve() for run in runs]
    for run, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise ValueError(f"{run} is named twice")
    names, why = [protocol] if protocol else ["knn", ONLINE], ""
    for name in names:
        found = [read_scores(run, name, score) for run in runs]
        without = [run for run, scores in zip(runs, found, strict=True) if not scores]
        if not without:
            try:
                return alike(found)
            except ValueError as error:
                raise ValueError(f"{error}{why}") from error
        why = f". (These are scores of training: {without[0]} has none by eval.py {name})"
    how = "--val-data and --knn-every of train.py" if name == ONLINE else f"eval.py {name} RUN"
    raise ValueError(f"no {name} score in {', '.join(map(str, without))}: {how} makes one")


def parse_base(words: Sequence[str]) -> dict[str, Any]:
    """Return settings given as NAME=VALUE.

    Raises:
        ValueError: a word is not of that form.
    """
    pairs = [word.partition("=") for word in words]
    if not pairs or not all(name and equals and value for name, equals, value in pairs):
        raise ValueError(f"--base {' '.join(words)} must be settings, as mix=none")
    return {name: value for name, _, value in pairs}


def rows_of(groups: Sequence[Group], base: dict[str, Any]) -> list[Row]:
    """Return a row for each group, after its base's row."""
    rows = []
    every = [one.settings for one in groups]
    for one in groups:
        its_base = base_of(one, groups, base)
        found = difference(one, its_base) if its_base else None
        is_base = any(base_of(other, groups, base) is one for other in groups)
        rows.append(Row(name_of(one.settings, every), one, is_base, its_base, found))
    order = {id(one): place for place, one in enumerate(groups)}
    return sorted(rows, key=lambda r: (order[id(r.base or r.group)], r.base is not None))


def drawn(rows: Sequence[Row]) -> list[ScoreRow]:
    """Return the rows for the picture, with scores and differences in percent."""
    places = {id(row.group): place for place, row in enumerate(rows)}
    return [
        ScoreRow(
            name=row.name,
            values=[100 * value for value in row.group.values],
            base=places[id(row.base)] if row.base else None,
            difference=describe(row.difference) if row.difference else "",
            resolved=row.difference is not None and row.difference.resolved,
        )
        for row in rows
    ]


def describe(found: Difference) -> str:
    """Return a difference in points, with its standard error."""
    error = "" if found.error is None else f" ± {100 * found.error:.2f}"
    return f"{100 * found.value:+.2f}{error}" + ("" if found.resolved else "  unresolved")


def caption(scored: Sequence[Scored]) -> str:
    """Return the score, the budget and the protocol in one line."""
    how = scored[0].protocol
    epochs = sorted({score.settings["epochs"] for score in scored})
    steps = sorted({score.step for score in scored})
    parts = [
        f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}"
        for k, v in how.items()
        if k not in ("protocol", "score") and v is not None
    ]
    score = text_of(how["score"])
    budget = f"step {numbers(steps)} of runs of {numbers(epochs)} epochs"
    return f"{score}, % ({how['protocol']}; {budget}); {', '.join(parts)}"


def numbers(many: Sequence[int]) -> str:
    """Return whole numbers joined by "and"."""
    return " and ".join(f"{number:,}" for number in many)


HEADINGS = ("runs", "seeds", "mean", "spread", "difference", "std. error", "95 %", "verdict")


def cells(row: Row) -> list[str]:
    """Return a row's text, scores in percent."""
    spread, found = row.group.spread, row.difference
    text = [row.name, str(len(row.group.runs)), f"{row.group.mean:.2%}"]
    text.append("one seed" if spread is None else f"{spread:.2%}")
    if found is None:
        text += ["base" if row.is_base else "no base", "", "", ""]
    else:
        error = "unknown" if found.error is None else f"{found.error:.2%}"
        interval = "unknown"
        if found.interval:
            interval = " to ".join(f"{end:+.2%}" for end in found.interval)
        verdict = "resolved" if found.resolved else "unresolved"
        text += [f"{found.value:+.2%}", error, interval, verdict]
    return [cell.replace("%", "") for cell in text]


def notes(rows: Sequence[Row]) -> list[str]:
    """Return the remarks below the table."""
    found = []
    for row in rows:
        if row.base is None or row.difference is None:
            continue
        for name in beyond(row.group, row.base):
            before, now = (g.settings.get(name) for g in (row.base, row.group))
            found.append(
                f"{row.name} differs from its base in more than the mixture: "
                f"{name} {before} -> {now}"
            )
    known = [run for row in rows for run in row.group.runs if run.contents]
    other = next((run for run in known if run.contents != known[0].contents), None)
    if other:
        found.append(
            f"{known[0].run} and {other.run} were scored on images with other contents: data that "
            "changed in between, or another form of the same (a folder, and the .beton made of it)"
        )
    kinds = {row.difference.kind for row in rows if row.difference}
    if kinds & {"paired", "welch"}:
        found.append(
            "std. error: over seeds, of the paired differences if both rows have the same seeds, "
            "else Welch's; 95 %: Student's interval; unresolved: it contains 0"
        )
    if any(row.difference and row.difference.error == 0 for row in rows):
        found.append("std. error 0: equal differences are no estimate of chance, hence unresolved")
    if "unknown" in kinds:
        found.append("std. error unknown: one seed gives no estimate of chance, hence unresolved")
    if any(row.difference is None and not row.is_base for row in rows):
        found.append("no base: no single row of its method, data and epochs fits --base (mix=none)")
    return found


def show(rows: Sequence[Row], how: str) -> None:
    """Print a table."""
    table = Table(caption=how, caption_justify="left", header_style="bold")
    for place, heading in enumerate(HEADINGS):
        name = place == 0  # the only column that may wrap
        justify: Literal["left", "right"] = "left" if place in (0, 7) else "right"
        table.add_column(heading, justify=justify, no_wrap=not name, overflow="fold")
    for row in rows:
        table.add_row(*cells(row))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    for note in notes(rows):
        console.print(note, style="dim")


def markdown(rows: Sequence[Row], how: str) -> str:
    """Return a table in Markdown."""
    body = [HEADINGS, ("---",) * len(HEADINGS), *map(cells, rows)]
    lines = [f"| {' | '.join(line)} |" for line in body]
    return "\n".join([*lines, "", how + ".", *(f"{note}." for note in notes(rows))])


def plain(rows: Sequence[Row], scored: Scored) -> dict[str, Any]:
    """Return the content of the JSON; scores in [0, 1], null where unknown."""
    names = {id(row.group): row.name for row in rows}
    groups = []
    for row in rows:
        runs = [
            {"run": str(r.run), "seed": r.seed, "step": r.step, "value": r.value}
            for r in row.group.runs
        ]
        one: dict[str, Any] = {"name": row.name, "runs": runs, "mean": row.group.mean}
        one |= {"spread": row.group.spread, "base": None, "settings": row.group.settings}
        if row.base and row.difference:
            found = row.difference
            one |= {
                "base": names[id(row.base)],
                "difference": found.value,
                "standard_error": found.error,
                "standard_error_kind": found.kind,
                "interval": found.interval,
                "resolved": found.resolved,
                "differs_beside_the_mixture": beyond(row.group, row.base),
            }
        groups.append(one)
    return {"protocol": scored.protocol, "groups": groups}


if __name__ == "__main__":
    sys.exit(main())
