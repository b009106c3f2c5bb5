"""Compare speeds: ``python tools/bench.py BENCHMARK --help``.

``loaders`` (against stock FFCV and torchvision), ``decode``, ``augment``, ``dali``, ``mixture``
(the cost of a mixture), ``baseline`` (a plain CIFAR loop), ``peer`` (training with lightly),
``batchnorm`` (within groups, and over processes), ``remote`` (a URL against a local file),
``store`` (a first pass over a store, with other projects' loaders), ``scale`` (what many images
cost).
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import importlib
import signal
import sys
from collections.abc import Sequence

from tools.runs.command import command

BENCHMARKS = (
    "augment",
    "baseline",
    "batchnorm",
    "dali",
    "decode",
    "loaders",
    "mixture",
    "peer",
    "remote",
    "scale",
    "store",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark that the first argument names; return the exit status."""
    return command("tools/bench.py", lambda: run(sys.argv[1:] if argv is None else argv))


def run(words: Sequence[str]) -> int:
    """Run the benchmark that the first word names, with the other words as its flags.

    Raises:
        ValueError: there is no such benchmark.
    """
    name = words[0] if words else ""
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in BENCHMARKS:
        raise ValueError(f"choose one of {', '.join(BENCHMARKS)}, not {name!r}")
    status: int = importlib.import_module(f"tools.benchmarks.{name}").main(words[1:])
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that worker processes end too
    sys.exit(main())
