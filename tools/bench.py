"""Compare speeds: ``python tools/bench.py BENCHMARK --help``.

``loaders`` (against stock FFCV and torchvision), ``decode``, ``augment``, ``dali``, ``mixture``
(the price of a mixture), ``baseline`` (a plain CIFAR loop), ``peer`` (training on lightly).
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    import diagnostics.environment  # noqa: F401

import importlib
import signal
import sys
from collections.abc import Sequence

BENCHMARKS = ("augment", "baseline", "dali", "decode", "loaders", "mixture", "peer")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark named first with the flags after it; return the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    name, words = (given[:1] or [""])[0], given[1:]
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in BENCHMARKS:
        print(f"bench.py: choose one of {', '.join(BENCHMARKS)}, not {name!r}", file=sys.stderr)
        return 2
    return importlib.import_module(f"tools.benchmarks.{name}").main(words) or 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # else worker processes outlive it
    sys.exit(main())
