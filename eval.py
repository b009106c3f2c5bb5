"""Score the representation of a run; each protocol is a file in tools/protocols.

python eval.py knn --run runs/NAME
python eval.py linear --run runs/NAME
python eval.py detect --run runs/NAME
python eval.py semi --run runs/NAME --fraction 0.1
"""

from __future__ import annotations

if __name__ == "__main__":
    import tools.diagnostics.environment  # noqa: F401

import shlex
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro
from tyro.conf import subcommand

from tools.evaluation.base import Protocol
from tools.evaluation.detect import Detect
from tools.evaluation.finetune import Finetune
from tools.evaluation.knn import Knn
from tools.evaluation.linear import Linear
from tools.evaluation.robustness import Robustness
from tools.evaluation.semi import Semi
from tools.runs.command import command

Arguments = (
    Annotated[Knn, subcommand("knn")]
    | Annotated[Linear, subcommand("linear")]
    | Annotated[Semi, subcommand("semi")]
    | Annotated[Finetune, subcommand("finetune")]
    | Annotated[Detect, subcommand("detect")]
    | Annotated[Robustness, subcommand("robustness")]
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Score, print the result and append it to eval.jsonl; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return command("eval.py", lambda: score(argv))


def score(argv: Sequence[str]) -> None:
    """Score as the flags say."""
    protocol: Protocol = tyro.cli(Arguments, args=argv, description=__doc__)
    protocol.evaluate(shlex.join(["eval.py", *argv]))


if __name__ == "__main__":
    sys.exit(main())
