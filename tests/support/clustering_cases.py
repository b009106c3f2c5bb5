"""Clusters of unit rows, and the results that every process must find."""

from __future__ import annotations

import numpy as np
import torch

from models import clustering
from models.clustering import Features, nearest, own_range, spherical_kmeans

N, D = 500, 24


BLOCK = 64  # 8 blocks, the last one of 52 rows


def points(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Unit rows in loose clumps, every tenth a duplicate of another."""
    generator = torch.Generator().manual_seed(0)
    clumps = torch.randn(12, D, generator=generator, dtype=torch.float64)
    x = clumps[torch.randint(12, (N,), generator=generator)]
    x = x + 0.7 * torch.randn(N, D, generator=generator, dtype=torch.float64)
    x[::10] = x[torch.randperm(N, generator=generator)[:50]]
    return torch.nn.functional.normalize(x, dim=1).to(dtype)


def features(dtype: torch.dtype = torch.float64) -> Features:
    own = own_range(N, BLOCK)
    return Features(points(dtype)[own.start : own.stop], N, BLOCK)


def rng() -> np.random.Generator:
    return np.random.default_rng([4, 2])


def tables() -> dict[str, torch.Tensor]:
    """What every process must agree on, bit for bit."""
    of = features(torch.float32)
    found = spherical_kmeans(of, 23, rng())
    near = nearest(of, found, 20)
    return {
        "world_size": torch.tensor(clustering.world_size()),
        "centres": found.centers,
        "cluster": of.join(found.cluster),
        "radius": of.join(found.similarity),
        "index": of.join(near.index),
        "similarity": of.join(near.similarity),
        "to_center": of.join(near.to_center),
    }
