"""Score the representation of a run, or write its features. Each protocol is a subcommand.

Examples:
    python eval.py knn runs/NAME
    python eval.py linear runs/NAME
    python eval.py embed runs/NAME features.npz
    python eval.py detect runs/NAME
    python eval.py semi runs/NAME --fraction 0.1
"""

from __future__ import annotations

if __name__ == "__main__":
    from tools.diagnostics import environment

    environment.check()

import logging
import os
import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import subcommand

from tools.config.data_sets import sum_repeated
from tools.evaluation.base import Protocol
from tools.evaluation.detect import Detect
from tools.evaluation.embed import Embed
from tools.evaluation.finetune import Finetune
from tools.evaluation.knn import Knn
from tools.evaluation.linear import Linear
from tools.evaluation.robustness import Robustness
from tools.evaluation.semi import Semi
from tools.runs.command import command

Arguments = (
    Annotated[Knn, subcommand("knn")]
    | Annotated[Linear, subcommand("linear")]
    | Annotated[Embed, subcommand("embed")]
    | Annotated[Semi, subcommand("semi")]
    | Annotated[Finetune, subcommand("finetune")]
    | Annotated[Detect, subcommand("detect")]
    | Annotated[Robustness, subcommand("robustness")]
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Score, print the result and append it to eval.jsonl; return the exit status."""
    logging.basicConfig(format="%(message)s")
    if is_first_process():
        logging.getLogger("pipelines").setLevel(logging.INFO)
    argv = list(sys.argv[1:] if argv is None else argv)
    return command("eval.py", lambda: score(argv))


def score(argv: Sequence[str]) -> None:
    """Score runs by the protocol of the flags, and update their reports."""
    protocol: Protocol = tyro.cli(
        Arguments, args=sum_repeated(runs_first(argv)), description=__doc__
    )
    protocol.evaluate(shlex.join(["eval.py", *argv]))
    runs = protocol.scored_runs if is_first_process() else []
    if any((run / "report.html").is_file() for run in runs):
        from tools.reporting.write import after_score

        for run in runs:
            after_score(run)


def is_first_process() -> bool:
    """Whether this is the first process of a launcher, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def runs_first(argv: Sequence[str]) -> list[str]:
    """Move the values of the old flags ``--run`` and ``--runs`` after the protocol's name."""
    rest = [part for word in argv for part in (word.split("=", 1) if _names_run(word) else [word])]
    runs: list[str] = []
    while (flag := next((word for word in rest if _names_run(word)), None)) is not None:
        start = rest.index(flag)
        stop = start + 1
        while stop < len(rest) and not rest[stop].startswith("-"):
            stop += 1
            if flag == "--run":
                break
        runs += rest[start + 1 : stop]
        del rest[start:stop]
    return [*rest[:1], *runs, *rest[1:]]


def _names_run(word: str) -> bool:
    return word.split("=", 1)[0] in ("--run", "--runs")


if __name__ == "__main__":
    sys.exit(main())
