"""Exact neighbours and spherical k-means against brute force, FAISS, and four processes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clustering_cases import BLOCK, D, N, features, points, rng, tables
from processes import in_group

from models.clustering import Clusters, Features, nearest, spherical_kmeans

torch.set_num_threads(1)  # the problems are tiny

WORLD = 4  # test_clim_ranks.py asks two


def clusters(of: Features, k: int = 10) -> Clusters:
    return spherical_kmeans(of, k, rng())


def test_nearest_against_brute_force() -> None:
    x, k = points(), 20
    found = nearest(features(), clusters(features()), k)
    similarity = x @ x.T
    similarity.fill_diagonal_(-2)
    expected = similarity.sort(dim=1, descending=True)
    torch.testing.assert_close(found.similarity, expected.values[:, :k], rtol=0, atol=1e-12)
    torch.testing.assert_close(similarity.gather(1, found.index), found.similarity)
    assert (found.index != torch.arange(N)[:, None]).all()
    assert all(len(set(row)) == k for row in found.index.tolist())
    # the same rows, but for those as far as the last
    for i in range(N):
        nearer = expected.indices[i, :k][expected.values[i, :k] > found.similarity[i, -1] + 1e-9]
        assert set(nearer.tolist()) <= set(found.index[i].tolist())
    duplicates = (found.similarity[:, 0] > 1 - 1e-12).sum()
    assert duplicates >= 50


def test_nearest_knows_the_way_to_the_center() -> None:
    of = clusters(features())
    found = nearest(features(), of, 7)
    expected = points() @ of.centers.T
    torch.testing.assert_close(
        found.to_center, expected[found.index, of.cluster[:, None]], rtol=0, atol=1e-12
    )


def test_each_row_belongs_to_its_nearest_centre_and_centres_are_means() -> None:
    x = points()
    of = spherical_kmeans(features(), 10, rng(), iterations=60)  # long enough to settle
    similarity = x @ of.centers.T
    assert torch.equal(of.cluster, similarity.argmax(1))
    torch.testing.assert_close(of.similarity, similarity.max(1).values)
    for c in range(10):
        mean = torch.nn.functional.normalize(x[of.cluster == c].mean(0), dim=0)
        torch.testing.assert_close(of.centers[c], mean, rtol=0, atol=1e-10)


def test_each_iteration_draws_rows_nearer() -> None:
    score = [
        float(spherical_kmeans(features(), 10, rng(), iterations=i).similarity.mean())
        for i in (0, 1, 2, 4, 8, 30)
    ]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(score))
    assert score[-1] > score[0] + 0.05


def test_empty_clusters_take_far_rows() -> None:
    """Drawn from duplicates, all centres but one start empty."""
    x = points()
    x[:100] = x[0]

    class FirstRows(np.random.Generator):
        def choice(self, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
            return np.arange(10)

    of = spherical_kmeans(Features(x, N, BLOCK), 10, FirstRows(np.random.PCG64(0)))
    assert len(of.cluster.unique()) == 10


def test_more_clusters_than_distinct_rows() -> None:
    x = points()[:3].repeat(20, 1)
    of = spherical_kmeans(Features(x, 60, BLOCK), 8, rng())
    assert len(of.cluster.unique()) <= 3 + 5 and torch.isfinite(of.centers).all()
    torch.testing.assert_close(of.similarity, torch.ones(60, dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_storage(dtype: torch.dtype) -> None:
    exact = nearest(features(), clusters(features()), 10).similarity
    stored = features(dtype)
    found = nearest(stored, clusters(stored), 10)
    assert found.similarity.dtype == torch.float32
    torch.testing.assert_close(found.similarity.double(), exact, rtol=0, atol=2e-3)


def test_the_block_size_only_rounds() -> None:
    x = points()
    a, b = (
        nearest(f, clusters(f), 10).similarity for f in (Features(x, N, 7), Features(x, N, 2048))
    )
    torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_too_many_neighbours_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--clim\.neighbours 500 "):
        nearest(features(), clusters(features()), N)


def test_neighbours_are_those_of_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    x = points(torch.float32)
    index = faiss.IndexFlatIP(D)
    index.add(x.numpy())
    similarity, rows = index.search(x.numpy(), 21)
    found = nearest(features(torch.float32), clusters(features(torch.float32)), 20)
    for i in range(N):
        theirs = [(s, j) for s, j in zip(similarity[i], rows[i], strict=True) if j != i][:20]
        ours = found.similarity[i].numpy()
        np.testing.assert_allclose(ours, [s for s, _ in theirs], atol=2e-6)
        clear = {int(j) for s, j in theirs if s > ours[-1] + 1e-5}
        assert clear <= set(found.index[i].tolist())


def test_clusters_are_as_tight_as_those_of_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    x = points(torch.float32).numpy()
    theirs = faiss.Kmeans(D, 10, niter=30, spherical=True, seed=1, min_points_per_centroid=1)
    theirs.train(x)
    score = (x @ theirs.centroids.T).max(1).mean()
    single = features(torch.float32)
    ours = max(
        float(spherical_kmeans(single, 10, np.random.default_rng(seed)).similarity.mean())
        for seed in range(3)
    )
    assert ours > score - 0.02


def found() -> dict[str, Any]:
    """What one process of the group finds."""
    return {"tables": tables()}


def test_one_process_is_four(tmp_path: Path) -> None:
    alone = tables()
    assert alone.pop("world_size") == 1
    for rank, result in enumerate(in_group(WORLD, tmp_path, found)):
        many = result["tables"]
        assert many.pop("world_size") == WORLD
        for name, values in alone.items():
            assert torch.equal(values, many[name]), f"{name} on rank {rank}"
