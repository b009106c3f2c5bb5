"""The batch of a training step: the contract between ``pipelines`` and ``models``."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Mixed:
    """Mixed images: ``lam[i]`` of a view's row ``i`` and ``1 - lam[i]`` of its row ``partner[i]``.

    ``view`` is the index of the mixed view in the batch. ``partner`` indexes the rows of that view
    on this rank. ``lam`` is the share measured after clipping, in [0, 1]. ``name`` tells apart
    several mixtures of one view; it is empty for Un-Mix's. ``partner_view`` is the view that
    shows the partners, where it is another one (Mixed Barlow Twins).
    """

    view: int
    image: Float[Tensor, "n c h w"]
    partner: Int[Tensor, " n"]
    lam: Float[Tensor, " n"]
    name: str = ""
    partner_view: int | None = None
    key: bool = False
    """Whether the network of the keys sees it, as a target for the other mixtures."""

    @property
    def suffix(self) -> str:
        """The end of the name of this mixture's loss term: ``_mask`` for one named mask."""
        return f"_{self.name}" if self.name else ""

    @property
    def term(self) -> str:
        """Name of the loss term of this mixture alone: ``mixed_0``, ``mixed_0_mask``."""
        return f"mixed_{self.view}{self.suffix}"


@dataclass(frozen=True, slots=True)
class Batch:
    """One step's rows of one rank: on the device, normalized, in position order.

    With CLIM every view holds the n rows, the anchors, and then a neighbour of each. ``index``
    holds the rows of the data set, ``position`` their places in the global batch and ``label``
    their classes (-1: none; never part of a loss). ``seed`` and ``step`` key the random numbers
    that a method draws itself.
    """

    views: tuple[Float[Tensor, "_ c _h _w"], ...]
    index: Int[Tensor, " n"]
    label: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    seed: int
    step: int
    mixed: tuple[Mixed, ...] = ()
    plain: tuple[Float[Tensor, "_ c _h _w"], ...] = ()
    """The views before ScaleMix, for networks that make targets; empty: they are ``views``."""

    @property
    def targets(self) -> tuple[Float[Tensor, "_ c _h _w"], ...]:
        """The views that a target network sees: those that the online network sees, unpasted."""
        return self.plain or self.views

    def __post_init__(self) -> None:
        terms = [m.term for m in self.mixed]
        if len(set(terms)) < len(terms):
            raise ValueError(f"two mixtures of a view need two names; the terms are {terms}")

    def mixtures(self) -> dict[str, dict[int, Mixed]]:
        """Return the mixtures by the suffix of their terms, then by view."""
        named: dict[str, dict[int, Mixed]] = {}
        for m in self.mixed:
            named.setdefault(m.suffix, {})[m.view] = m
        return named

    def parts(self, count: int) -> list[Batch]:
        """Return ``count`` micro-batches of consecutive rows, each with its anchors' neighbours.

        A row and its partner must lie in the same part. Views are not copied, except with
        neighbours.
        """
        return [self._part(part, len(self.index) // count) for part in range(count)]

    def _part(self, part: int, rows: int) -> Batch:
        total, first = len(self.index), part * rows

        def cut(images: Tensor) -> Tensor:
            blocks = [block[first : first + rows] for block in images.split(total)]
            return blocks[0] if len(blocks) == 1 else torch.cat(blocks)

        def place(partner: Tensor) -> Tensor:  # row b * total + i of a view, b = 0 or 1
            return partner // total * rows + partner % total - first

        return Batch(
            tuple(cut(view) for view in self.views),
            cut(self.index),
            cut(self.label),
            cut(self.position),
            self.seed,
            self.step,
            tuple(
                replace(m, image=cut(m.image), partner=place(cut(m.partner)), lam=cut(m.lam))
                for m in self.mixed
            ),
            tuple(cut(view) for view in self.plain),
        )


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to ``device`` without waiting; to CUDA through page-locked memory."""
    if device.type == "cuda" and tensor.numel():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
