"""torch.compile of a method's encoders: one graph for each shape, and a line where that ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from torch import Tensor, nn

log = logging.getLogger(__name__)

Rest = TypeVar("Rest")

MOST_GRAPHS = 64
"""Graphs of one forward function, which an encoder and its momentum copy share. Each has a graph
for each size of the views in training, and at most two in evaluation. Torch's own limit is 8."""


def compile_encoders(
    encoders: Iterable[nn.Module],
    warn: Callable[[str], object] = log.warning,
    backend: str | Callable[..., Callable[..., object]] = "inductor",
) -> None:
    """Compile the forward pass of each encoder, in place; graphs are made when they are needed.

    Shapes are constants of a graph, so that the compiler tunes a kernel for each size of the views;
    only ``rows_vary`` marks a batch of any length. If a function needs more than ``MOST_GRAPHS``,
    torch runs its new shapes uncompiled from then on, and ``warn`` is called once with a line.

    Args:
        encoders: the backbone and its momentum copy, if there is one.
        warn: takes the line.
        backend: torch's name of a compiler, or a function of a graph and its example inputs.
    """
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, MOST_GRAPHS)
    torch_log = logging.getLogger("torch._dynamo.convert_frame")
    for handler in [h for h in torch_log.handlers if isinstance(h, _GivenUp)]:
        torch_log.removeHandler(handler)
    torch_log.addHandler(_GivenUp(warn))
    for encoder in encoders:
        encoder.compile(backend=backend, dynamic=False)


def rows_vary(batches: Iterable[tuple[Tensor, Rest]]) -> Iterator[tuple[Tensor, Rest]]:
    """Yield batches of images whose number of rows is no constant of a compiled graph.

    The last batch of an evaluation is smaller than the others, and would need graphs of its own.
    """
    from torch._dynamo import maybe_mark_dynamic

    for images, rest in batches:
        maybe_mark_dynamic(images, 0)
        yield images, rest


class _GivenUp(logging.Handler):
    """Says once, in the words of the command line, that torch.compile has given up."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        super().__init__(logging.WARNING)
        self._warn, self._said = warn, False

    def emit(self, record: logging.LogRecord) -> None:
        """Call ``warn`` if the record is torch's warning that a limit is reached."""
        if "recompile_limit" not in record.getMessage() or self._said:
            return
        self._said = True
        self._warn(
            f"--compile: the encoder needs more than {MOST_GRAPHS} graphs, so torch.compile has "
            "given up; what has none yet runs uncompiled, as without --compile. Fewer sizes of the "
            "views need fewer: see --resolution-schedule, --multi-scale, --resolutions and --crops"
        )
