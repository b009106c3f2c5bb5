"""Loss terms, kept on the device until the host reads them for a log line."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from pipelines.batch import Batch


class NotFinite(ValueError):
    """The loss of ``step``, or a weight after it, is NaN or infinite."""

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


class StepMetrics:
    """Means of the loss and its terms, and the first step that was not finite.

    A step is not finite if its loss, or a value of ``weights`` after it, is NaN or infinite.
    ``add`` never waits for the device; ``read``, ``last`` and ``first_bad`` do.
    """

    def __init__(self, accelerator: Accelerator, weights: Sequence[Tensor] = ()) -> None:
        self._accelerator, self._weights = accelerator, list(weights)
        self._names: list[str] = []
        self._rows: list[Tensor] = []
        self.forget()

    def forget(self) -> None:
        """Discard all steps."""
        self._rows = []
        self._first_bad = torch.full((1,), math.inf, device=self._accelerator.device)

    def add(self, step: int, values: dict[str, Tensor]) -> None:
        """Add the scalars of a finished ``step``; the scalar "loss" must be finite."""
        self._names = list(values)
        self._rows.append(torch.stack([v.detach().float() for v in values.values()]))
        fine = values["loss"].detach().isfinite()
        if self._weights:
            largest = torch.stack(torch._foreach_norm(self._weights, math.inf))
            fine = fine & largest.isfinite().all()
        here = torch.where(fine, math.inf, float(step))
        self._first_bad = torch.minimum(self._first_bad, here)

    def read(self) -> dict[str, float]:
        """Return the means over all processes and the steps since the last call; {} if none."""
        if not self._rows:
            return {}
        means = self._accelerator.reduce(torch.stack(self._rows).mean(0), "mean")
        self._rows = []
        return dict(zip(self._names, means.tolist(), strict=True))

    def last(self) -> dict[str, float]:
        """Return the means over all processes of the last step; ``read`` still counts it."""
        if not self._rows:
            return {}
        means = self._accelerator.reduce(self._rows[-1].clone(), "mean")
        return dict(zip(self._names, means.tolist(), strict=True))

    def first_bad(self) -> int | None:
        """Return the first step, on any process, that was not finite; all processes call it."""
        step = self._accelerator.gather(self._first_bad).min().item()
        return None if math.isinf(step) else int(step)


def mean_share(batch: Batch) -> dict[str, Tensor]:
    """Return the mean lam of a batch's mixtures, if it has any."""
    if not batch.mixed:
        return {}
    return {"lam": torch.cat([mixed.lam for mixed in batch.mixed]).mean()}
