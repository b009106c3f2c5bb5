"""k-nearest-neighbour classification of features, by a vote of labelled training rows.

Scores are shares in [0, 1]. Rows labelled -1 (no class) neither vote nor count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from models.neighbors import nearest_rows
from tools.scoring import accuracy
from tools.scoring.plan import Rule, Vote

WEIGHTED_COSINE = Vote()


def knn(
    bank: Float[Tensor, "m d"],
    bank_labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    k: int = 200,
    temperature: float = 0.1,
    own: Int[Tensor, " n"] | None = None,
) -> dict[str, float]:
    """Return ``knn_top1`` and ``knn_top5`` of the queries: weighted votes by cosine similarity.

    ``own`` is that of ``knn_sweep``.

    Raises:
        ValueError: as in ``check_knn``.
    """
    every = knn_sweep(
        bank, bank_labels, queries, labels, ks=[k], temperatures=[temperature], own=own
    )
    return every[k, temperature]


def knn_sweep(
    bank: Float[Tensor, "m d"],
    bank_labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    ks: Sequence[int],
    temperatures: Sequence[float] = (0.1,),
    vote: Vote = WEIGHTED_COSINE,
    own: Int[Tensor, " n"] | None = None,
) -> dict[tuple[int, float], dict[str, float]]:
    """Return the scores of every k and temperature, from one search for the nearest rows.

    ``weighted`` gives ``knn_top1`` and ``knn_top5``: a neighbour's vote has the weight
    ``exp(s / T)``, where s is its cosine or minus its Euclidean distance. ``majority`` gives
    ``knn_top1``: each neighbour has one vote, the lowest of tied classes wins (as in
    scikit-learn), and temperatures have no effect.

    ``own`` is each query's own row of the bank, which does not vote on it; -1 where it has none.

    Raises:
        ValueError: as in ``check_knn``.
    """
    for k in ks:
        for temperature in temperatures:
            check_knn(bank_labels, labels, k, temperature, own)
    num_classes = accuracy.num_classes(bank_labels, labels)
    if own is not None:
        own = _among_labeled(own, bank_labels)[labels >= 0]
    bank, bank_labels = accuracy.labeled(bank, bank_labels)
    queries, labels = accuracy.labeled(queries, labels)
    similarity, rows = nearest_rows(queries, bank, max(ks), own=own, distance=vote.distance)
    classes = bank_labels[rows]
    every = {}
    for k in ks:
        for temperature in temperatures:
            weight = torch.ones_like(similarity[:, :k])
            if vote.rule == "weighted":
                weight = vote_weights(similarity[:, :k], temperature)
            votes = weight.new_zeros(len(weight), num_classes)
            votes.scatter_add_(1, classes[:, :k], weight)
            every[k, temperature] = _scores(votes, labels, vote.rule)
    return every


def _among_labeled(own: Tensor, bank_labels: Tensor) -> Tensor:
    """Number the bank's rows that have a label; the others become -1, as no row."""
    number = torch.where(bank_labels >= 0, (bank_labels >= 0).cumsum(0) - 1, -1)
    return torch.where(own >= 0, number[own], -1)


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


def voters(bank_labels: Int[Tensor, " m"], own: Int[Tensor, " n"] | None = None) -> int:
    """Return how many training rows can vote on each query: those with a label, but not its own."""
    return int((bank_labels >= 0).sum()) - (own is not None)


def check_knn(
    bank_labels: Int[Tensor, " m"],
    labels: Int[Tensor, " n"],
    k: int,
    temperature: float,
    own: Int[Tensor, " n"] | None = None,
) -> None:
    """Check that a kNN score can be computed, before any image is encoded.

    Raises:
        ValueError: a set has no labels, k is not between 1 and the number of labelled training
            rows, or the temperature is not above 0.
    """
    accuracy.check_labels(bank_labels, labels)
    size = voters(bank_labels, own)
    if not 1 <= k <= size:
        raise ValueError(f"--k {k} must be between 1 and the {size} labelled training images")
    if not temperature > 0:
        raise ValueError(f"--temperature {temperature} must be above 0")


def remarks(
    bank_labels: Int[Tensor, " m"],
    labels: Int[Tensor, " n"],
    k: int,
    own: Int[Tensor, " n"] | None = None,
    *,
    wanted: int | None = None,
    class_name: Callable[[int], str] = "class {}".format,
    flag: str = "--k",
) -> list[str]:
    """Return what distorts a kNN score, a line each; the score during training has the same lines.

    Args:
        bank_labels: labels of the training rows, -1 without one.
        labels: labels of the queries.
        k: neighbours that vote.
        own: each query's own row of the bank, as for ``knn_sweep``.
        wanted: the k that was asked for, if ``k`` is smaller.
        class_name: the name of a label.
        flag: the flag that sets k.
    """
    known, counts = bank_labels[bank_labels >= 0].unique(return_counts=True)
    lines = []
    if wanted is not None and wanted > k:
        lines.append(f"kNN: {flag} {wanted} becomes {k}, the number of images that can vote")
    least = int(counts.min())
    if int(counts.max()) > least and k > least:
        name = class_name(int(known[counts.argmin()]))
        lines.append(
            f"kNN: {k} neighbours vote, but the smallest class, {name}, has {least} training "
            f"images: larger classes can outvote it. {flag} {least} prevents that"
        )
    unseen = [label for label in labels[labels >= 0].unique().tolist() if label not in known]
    if unseen:
        lines.append(
            f"kNN: {class_name(unseen[0])} "
            + (f"and {len(unseen) - 1} more classes have" if unseen[1:] else "has")
            + " no training image, so that all of its validation images count as wrong"
        )
    if own is not None:
        lines.append(
            f"kNN: {int((own >= 0).sum()):,} of {len(own):,} validation images are training images "
            "too: each would be its own nearest neighbour, so it does not vote on itself. "
            "Other --val-data are a test"
        )
    return lines
