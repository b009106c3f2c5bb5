"""Top-1 and top-5 accuracy, confidence, and checks that labels allow them.

Accuracies are shares in [0, 1]. Label -1 means no class.
"""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor


def topk_accuracy(
    scores: Float[Tensor, "n classes"], labels: Int[Tensor, " n"]
) -> dict[str, float]:
    """Return ``top1`` and ``top5``: the shares of rows whose label is among the highest scores."""
    first = scores.argmax(1) == labels
    five = scores.topk(min(5, scores.shape[1]), dim=1).indices == labels[:, None]
    return {
        name: int(right.sum()) / len(labels)
        for name, right in (("top1", first), ("top5", five.any(1)))
    }


def confidence(logits: Float[Tensor, "n classes"]) -> float:
    """Return the mean probability of the predicted class; less the accuracy, it is overconfidence.

    Source: Guo 2017, arXiv:1706.04599, section 2.
    """
    return float(logits.softmax(1).amax(1).double().mean())


def check_labels(train_labels: Int[Tensor, " m"], val_labels: Int[Tensor, " n"]) -> None:
    """Check that both sets have labels.

    Raises:
        ValueError: training or validation images have no labels.
    """
    for flag, labels in (("--data", train_labels), ("--val-data", val_labels)):
        if not bool((labels >= 0).any()):
            raise ValueError(f"{flag} has no labels: scores need labelled images in both sets")


def num_classes(*labels: Tensor) -> int:
    """Return the number of classes, at least 2: one more than the largest label."""
    return max(2, *(int(some.max()) + 1 for some in labels))


def labeled(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows that have a label, and their labels; no copy if all rows have one."""
    has_class = labels >= 0
    if bool(has_class.all()):
        return features, labels
    return features[has_class], labels[has_class]
