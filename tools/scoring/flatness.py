"""Flatness of predictions: how evenly a feature's sum is distributed over its values.

The paper shows the sorted raw feature, which depends on its scale as well as on its flatness. The
entropy and the maximum of the feature divided by its sum do not depend on the scale.

Source: Shen 2022, arXiv:2003.05438, the figure of 2048 sorted predictions of six ImageNet images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

ROWS = 4096
"""Rows whose shares are in memory at a time."""


def as_shares(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Divide each row's absolute values by their sum, (n, d); a row of zeros becomes uniform."""
    size = np.abs(features.astype(np.float64))
    total = size.sum(axis=1, keepdims=True)
    even = np.full_like(size, 1 / size.shape[1])
    return np.divide(size, total, out=even, where=total > 0)


def entropy(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each row's entropy over ln d, (n,): 1 for d equal shares, 0 for a single one."""
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=1) / np.log(shares.shape[1])


def mean_entropy(features: Float[Tensor, "n d"]) -> float:
    """Return the mean of ``entropy`` over the rows of features."""
    parts = (rows.float().cpu().numpy() for rows in features.split(ROWS))
    return float(sum(entropy(as_shares(rows)).sum() for rows in parts)) / len(features)


def table(features: Mapping[str, NDArray[np.float32]]) -> str:
    """Return a text table of means over the images, with a line for each run's features (n, d)."""
    head = f"{'run':28} {'raw max':>9} {'raw sum':>9} {'entropy/ln d':>13} {'largest share':>14}"
    lines = [head]
    for name, rows in features.items():
        raw, shares = np.abs(rows), as_shares(rows)
        lines.append(
            f"{name:28} {raw.max(1).mean():9.4f} {raw.sum(1).mean():9.2f} "
            f"{entropy(shares).mean():13.4f} {shares.max(1).mean():14.5f}"
        )
    return "\n".join(lines)
