"""What features are worth: nearest neighbours and linear probes. Pure tensor functions.

Scores are shares in [0, 1]. Rows labelled -1 (no class) neither vote nor count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy

from tools.scoring.probe import HeadPlan, Heads, fit

Rule = Literal["weighted", "majority"]
Distance = Literal["cosine", "euclidean"]

SIMILARITIES = 2**26
"""Query-bank similarities held at a time: 256 MiB of float32."""


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
        ValueError: ``check_knn`` says why.
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
    """Return the scores of every k and temperature, out of one search for the nearest rows.

    ``weighted`` gives ``knn_top1`` and ``knn_top5``: a neighbour votes with ``exp(s / T)``, s its
    cosine or minus its Euclidean distance. ``majority`` gives ``knn_top1``: a neighbour has one
    vote, of tied classes the lowest wins (as in scikit-learn), temperatures have no effect.

    Raises:
        ValueError: ``check_knn`` says why.
    """
    for k in ks:
        for temperature in temperatures:
            check_knn(bank_labels, labels, k, temperature)
    num_classes = count_classes(bank_labels, labels)
    bank, bank_labels = labelled(bank, bank_labels)
    queries, labels = labelled(queries, labels)
    votes: dict[tuple[int, float], list[Tensor]] = {(k, t): [] for k in ks for t in temperatures}
    for similarity, nearest in neighbours(bank, queries, max(ks), distance):
        classes, none = bank_labels[nearest], similarity.new_zeros(len(nearest), num_classes)
        for (k, temperature), blocks in votes.items():
            weight = torch.ones_like(similarity[:, :k])
            if rule == "weighted":
                weight = vote_weights(similarity[:, :k], temperature)
            blocks.append(none.scatter_add(1, classes[:, :k], weight))
    every = {}
    for key, blocks in votes.items():
        total = torch.cat(blocks)
        if rule == "majority":
            order = torch.arange(num_classes, device=total.device)
            total = total - order / (2 * num_classes)  # of equal counts the lowest class wins
        numbers = {f"knn_{name}": value for name, value in accuracies(total, labels).items()}
        if rule == "majority":
            del numbers["knn_top5"]  # the fifth class of a few votes has none
        every[key] = numbers
    return every


def vote_weights(similarity: Float[Tensor, "n k"], temperature: float) -> Float[Tensor, "n k"]:
    """Return the weights of neighbours' votes; similarities come highest first.

    Dividing by the nearest row's weight keeps small temperatures finite and changes no ranking.

    Source: Wu 2018, arXiv:1805.01978, section 3.4.
    """
    return ((similarity - similarity[:, :1]) / temperature).exp()


@torch.no_grad()
def neighbours(
    bank: Float[Tensor, "m d"], queries: Float[Tensor, "n d"], k: int, distance: Distance
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield similarities and rows of the k nearest, (block, k) each, nearest first, block by block.

    The similarity is the cosine, or minus the Euclidean distance.
    """
    bank, queries = bank.float(), queries.float()
    if distance == "cosine":
        bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    else:  # far from the origin, differences of squares would lose digits
        centre = bank.mean(0)
        bank, queries = bank - centre, queries - centre
    squares = bank.square().sum(1)
    for some in queries.split(max(1, SIMILARITIES // len(bank))):
        products = some @ bank.T
        if distance == "cosine":
            near, rows = products.topk(k)
        else:
            near, rows = (2 * products - squares).topk(k)
            near = -(some.square().sum(1, keepdim=True) - near).clamp(min=0).sqrt()
        yield near, rows


def check_knn(
    bank_labels: Int[Tensor, " m"], labels: Int[Tensor, " n"], k: int, temperature: float
) -> None:
    """Refuse what has no kNN score, before any image is encoded.

    Raises:
        ValueError: no labels, k outside 1 to the number of labelled training rows, or a
            temperature that is not above 0.
    """
    check_labels(bank_labels, labels)
    size = int((bank_labels >= 0).sum())
    if not 1 <= k <= size:
        raise ValueError(f"--k {k} must be between 1 and the {size} labelled training images")
    if not temperature > 0:
        raise ValueError(f"--temperature {temperature} must be above 0")


def check_labels(train_labels: Int[Tensor, " m"], val_labels: Int[Tensor, " n"]) -> None:
    """Refuse data without classes.

    Raises:
        ValueError: training or validation images have no labels.
    """
    for flag, labels in (("--data", train_labels), ("--val-data", val_labels)):
        if not bool((labels >= 0).any()):
            raise ValueError(f"{flag} has no labels: scores need labelled images in both sets")


def count_classes(*labels: Tensor) -> int:
    """Return the number of classes, at least 2: one more than the largest label."""
    return max(2, *(int(some.max()) + 1 for some in labels))


def labelled(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows that have a class, and their classes."""
    has_class = labels >= 0
    return features[has_class], labels[has_class]


def accuracies(scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]) -> dict[str, float]:
    """Return ``top1`` and ``top5``: the shares of rows whose label is among the highest scores."""
    num_classes = scores.shape[1]
    return {
        f"top{k}": float(
            multiclass_accuracy(
                scores, labels, num_classes, average="micro", top_k=min(k, num_classes)
            )
        )
        for k in (1, 5)
    }


def linear_sweep(
    train_features: Float[Tensor, "m d"],
    train_labels: Int[Tensor, " m"],
    val_features: Float[Tensor, "n d"],
    val_labels: Int[Tensor, " n"],
    *,
    lrs: Sequence[float],
    plan: HeadPlan,
    seed: int = 0,
) -> dict[float, dict[str, float]]:
    """Train a linear layer for each learning rate on raw features; return each one's scores.

    The last epoch counts, not the best one. Those that diverge are left out.

    Raises:
        ValueError: no labels, or all layers diverged.

    Source: He 2020, arXiv:1911.05722, section 4.1; Caron 2020, arXiv:2006.09882.
    """
    check_labels(train_labels, val_labels)
    num_classes = count_classes(train_labels, val_labels)
    x, y = labelled(train_features.float(), train_labels)
    heads = fit(x, y, num_classes, lrs, plan, seed)
    return linear_scores(heads, lrs, val_features, val_labels)


def linear_scores(
    heads: Heads,
    lrs: Sequence[float],
    val_features: Float[Tensor, "n d"],
    val_labels: Int[Tensor, " n"],
) -> dict[float, dict[str, float]]:
    """Return ``linear_top1`` and ``linear_top5`` of each layer that did not diverge.

    Raises:
        ValueError: all diverged.
    """
    x, y = labelled(val_features.float(), val_labels)
    every = {
        lr: {f"linear_{name}": value for name, value in accuracies(scores, y).items()}
        for lr, scores in zip(lrs, heads.scores(x), strict=True)
        if scores is not None
    }
    if not every:
        rates = " ".join(f"{lr:g}" for lr in lrs)
        raise ValueError(f"the linear probe diverged: --lr {rates} is too high for these features")
    return every
