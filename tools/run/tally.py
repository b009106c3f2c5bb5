"""Loss terms kept on the device between two log lines, where the host finally reads them."""

from __future__ import annotations

import math

import torch
from accelerate import Accelerator
from torch import Tensor


class NotFinite(ValueError):
    """A loss was NaN or infinite."""


class Tally:
    """Means of the loss and its terms, and the first step whose loss was not finite.

    ``add`` never waits for the device; ``read`` and ``check`` do.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._names: list[str] = []
        self._rows: list[Tensor] = []
        self._first_bad = torch.full((1,), math.inf, device=accelerator.device)

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Take the scalars of ``step``; the one called "loss" must stay finite."""
        self._names = list(values)
        self._rows.append(torch.stack([v.detach().float() for v in values.values()]))
        here = torch.where(values["loss"].detach().isfinite(), math.inf, float(step))
        self._first_bad = torch.minimum(self._first_bad, here)

    def read(self) -> dict[str, float]:
        """Return the means over the steps since the last call and over all processes."""
        means = self._accelerator.reduce(torch.stack(self._rows).mean(0), "mean")
        self._rows = []
        return dict(zip(self._names, means.tolist(), strict=True))

    def first_bad(self) -> int | None:
        """Return the first step, on any process, whose loss was not finite; all must ask."""
        step = self._accelerator.gather(self._first_bad).min().item()
        return None if math.isinf(step) else int(step)
