"""Two-dimensional maps of features, by t-SNE and by PCA.

Source: Shen 2022, arXiv:2003.05438, the figure of CIFAR-10's embeddings. The settings of its t-SNE
are not published; these are scikit-learn's defaults on unit rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PERPLEXITY = 30.0


def unit(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows divided by their lengths, (n, d); rows of zeros are left unchanged."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return (features / np.where(length > 0, length, 1)).astype(np.float32)


def tsne(
    features: NDArray[np.float32], perplexity: float = PERPLEXITY, seed: int = 0
) -> NDArray[np.float32]:
    """Map the unit rows by t-SNE, (n, d) to (n, 2); the perplexity is reduced for few rows.

    Raises:
        ValueError: fewer than four rows.
    """
    from sklearn.manifold import TSNE  # the import takes two seconds

    if len(features) < 4:
        raise ValueError(f"{len(features)} images are too few for a map: t-SNE needs four")
    rows = unit(features)
    perplexity = min(perplexity, (len(rows) - 1) / 3)
    start = "pca" if np.ptp(rows, axis=0).any() else "random"
    return TSNE(2, perplexity=perplexity, init=start, random_state=seed).fit_transform(rows)


def principal(features: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Project the unit rows on two principal axes, (n, 2); also return their share of variance."""
    rows = unit(features).astype(np.float64)
    rows -= rows.mean(axis=0)
    values, axes = np.linalg.eigh(rows.T @ rows)
    total = values.clip(0).sum()
    share = float(values[-2:].clip(0).sum() / total) if total > 0 else 0.0
    return (rows @ axes[:, :-3:-1]).astype(np.float32), share
