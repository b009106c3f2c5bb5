"""What features are worth: weighted nearest neighbours and a linear probe. Pure tensor functions.

Scores are shares in [0, 1]. Rows labelled -1 (no class) neither vote nor count.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_accuracy

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
    """Return ``knn_top1`` and ``knn_top5`` of the queries against the bank.

    Raises:
        ValueError: ``check_knn`` says why.
    """
    check_knn(bank_labels, labels, k, temperature)
    num_classes = count_classes(bank_labels, labels)
    bank, bank_labels = _labelled(bank, bank_labels)
    queries, labels = _labelled(queries, labels)
    votes = knn_votes(
        bank, bank_labels, queries, k=k, temperature=temperature, num_classes=num_classes
    )
    return {f"knn_{name}": score for name, score in accuracies(votes, labels).items()}


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


def _labelled(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    has_class = labels >= 0
    return features[has_class], labels[has_class]


@torch.no_grad()
def knn_votes(
    bank: Float[Tensor, "m d"],
    bank_labels: Int[Tensor, " m"],
    queries: Float[Tensor, "n d"],
    *,
    k: int,
    temperature: float,
    num_classes: int,
) -> Float[Tensor, "n classes"]:
    """Return the votes of each query's k nearest rows: ``sum exp((cos - nearest) / temperature)``.

    Dividing by the nearest row's weight keeps small temperatures finite and changes no ranking.

    Source: Wu 2018, arXiv:1805.01978, section 3.4.
    """
    bank = F.normalize(bank.float(), dim=1)
    chunk = max(1, SIMILARITIES // len(bank))
    votes = [queries.new_zeros(0, num_classes, dtype=torch.float32)]
    for some in F.normalize(queries.float(), dim=1).split(chunk):
        similarity, nearest = (some @ bank.T).topk(k)  # (chunk, k), nearest first
        weight = ((similarity - similarity[:, :1]) / temperature).exp()
        empty = weight.new_zeros(len(some), num_classes)
        votes.append(empty.scatter_add_(1, bank_labels[nearest], weight))
    return torch.cat(votes)


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


def linear_probe(
    train_features: Float[Tensor, "m d"],
    train_labels: Int[Tensor, " m"],
    val_features: Float[Tensor, "n d"],
    val_labels: Int[Tensor, " n"],
    *,
    epochs: int = 100,
    batch_size: int = 256,
    lr: float = 0.3,
    weight_decay: float = 0.0,
    momentum: float = 0.9,
    seed: int = 0,
) -> dict[str, float]:
    """Train one linear layer by SGD on raw features; return ``linear_top1`` and ``linear_top5``.

    Weights start at N(0, 0.01), biases at 0; the learning rate falls from ``lr`` to 0 by a cosine
    over the steps. The last epoch counts, not the best one. Equal seeds give equal results.

    Raises:
        ValueError: no labels, or the layer diverged.

    Source: He 2020, arXiv:1911.05722, section 4.1; the cosine as in Caron 2020, arXiv:2006.09882.
    """
    check_labels(train_labels, val_labels)
    num_classes = count_classes(train_labels, val_labels)
    x, y = _labelled(train_features.float(), train_labels)
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(x.shape[1], num_classes)
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    nn.init.zeros_(layer.bias)
    layer.to(x.device)
    sgd = torch.optim.SGD(layer.parameters(), lr, momentum=momentum, weight_decay=weight_decay)

    total, step = epochs * math.ceil(len(x) / batch_size), 0
    for _ in range(epochs):
        shuffled = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in shuffled.split(batch_size):
            sgd.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * step / total)) / 2
            sgd.zero_grad(set_to_none=True)
            F.cross_entropy(layer(x[rows]), y[rows]).backward()
            sgd.step()
            step += 1

    with torch.no_grad():
        val_x, val_y = _labelled(val_features.float(), val_labels)
        scores = layer(val_x)
    if not bool(scores.isfinite().all()):
        raise ValueError(f"the linear probe diverged: --lr {lr} is too high for these features")
    return {f"linear_{name}": score for name, score in accuracies(scores, val_y).items()}
