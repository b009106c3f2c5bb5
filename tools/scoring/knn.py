"""k-nearest-neighbour classification of features, by a vote of labelled training rows.

Scores are shares in [0, 1]. Rows labelled -1 (no class) neither vote nor count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.neighbors import Distance, nearest_rows
from tools.scoring import accuracy

Rule = Literal["weighted", "majority"]


def knn(
    bank: Float[Tensor, "m d"],
    bank_labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    k: int = 200,
    temperature: float = 0.1,
) -> dict[str, float]:
    """Return ``knn_top1`` and ``knn_top5`` of the queries: weighted votes by cosine similarity.

    Raises:
        ValueError: as in ``check_knn``.
    """
    every = knn_sweep(bank, bank_labels, queries, labels, ks=[k], temperatures=[temperature])
    return every[k, temperature]


def knn_sweep(
    bank: Float[Tensor, "m d"],
    bank_labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    ks: Sequence[int],
    temperatures: Sequence[float] = (0.1,),
    rule: Rule = "weighted",
    distance: Distance = "cosine",
) -> dict[tuple[int, float], dict[str, float]]:
    """Return the scores of every k and temperature, from one search for the nearest rows.

    ``weighted`` gives ``knn_top1`` and ``knn_top5``: a neighbour's vote has the weight
    ``exp(s / T)``, where s is its cosine or minus its Euclidean distance. ``majority`` gives
    ``knn_top1``: each neighbour has one vote, the lowest of tied classes wins (as in
    scikit-learn), and temperatures have no effect.

    Raises:
        ValueError: as in ``check_knn``.
    """
    for k in ks:
        for temperature in temperatures:
            check_knn(bank_labels, labels, k, temperature)
    num_classes = accuracy.num_classes(bank_labels, labels)
    bank, bank_labels = accuracy.labeled(bank, bank_labels)
    queries, labels = accuracy.labeled(queries, labels)
    similarity, rows = nearest_rows(queries, bank, max(ks), distance=distance)
    classes = bank_labels[rows]
    every = {}
    for k in ks:
        for temperature in temperatures:
            weight = torch.ones_like(similarity[:, :k])
            if rule == "weighted":
                weight = vote_weights(similarity[:, :k], temperature)
            votes = weight.new_zeros(len(weight), num_classes)
            votes.scatter_add_(1, classes[:, :k], weight)
            every[k, temperature] = _scores(votes, labels, rule)
    return every


def _scores(votes: Tensor, labels: Tensor, rule: Rule) -> dict[str, float]:
    if rule == "majority":
        num_classes = votes.shape[1]
        order = torch.arange(num_classes, device=votes.device)
        votes = votes - order / (2 * num_classes)  # the lowest of tied classes wins
    scores = {f"knn_{name}": value for name, value in accuracy.topk_accuracy(votes, labels).items()}
    if rule == "majority":
        del scores["knn_top5"]  # with few votes, most classes have none
    return scores


def vote_weights(similarity: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
    """Return the weights of the neighbours' votes; similarities are sorted, the highest first.

    The weights are divided by the nearest row's, which avoids overflow at small temperatures and
    does not change the ranking.

    Source: Wu 2018, arXiv:1805.01978, section 3.4.
    """
    return ((similarity - similarity[:, :1]) / temperature).exp()


def check_knn(
    bank_labels: Int[Tensor, " m"], labels: Int[Tensor, " n"], k: int, temperature: float
) -> None:
    """Check that a kNN score can be computed, before any image is encoded.

    Raises:
        ValueError: a set has no labels, k is not between 1 and the number of labelled training
            rows, or the temperature is not above 0.
    """
    accuracy.check_labels(bank_labels, labels)
    size = int((bank_labels >= 0).sum())
    if not 1 <= k <= size:
        raise ValueError(f"--k {k} must be between 1 and the {size} labelled training images")
    if not temperature > 0:
        raise ValueError(f"--temperature {temperature} must be above 0")
