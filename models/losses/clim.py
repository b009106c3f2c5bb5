"""CLIM's loss: clean and mixed queries against the keys of anchors and of their neighbors.

Li 2020, arXiv:2011.02697. Only its abstract could be read; docs/mixtures.md gives the source of
each choice. With CLIM, each view of a batch holds n anchors and then one neighbor of each. In
``models``, only this file and the methods with ``supports_clim`` depend on that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.losses.common import full_precision, on_mixture
from models.losses.contrastive import info_nce_against, log_negatives
from models.settings.base import ClimTerms
from pipelines.batch import Mixed


def anchors_and_neighbors(view: Float[Tensor, "m c h w"]) -> tuple[Tensor, Tensor]:
    """Return the two halves of a view, (n, c, h, w) each."""
    anchors, neighbors = view.chunk(2)
    return anchors, neighbors


@dataclass(frozen=True)
class ClimLoss(ClimTerms):
    """How the clean and the mixed term are combined.

    ``add``: ``(L_base + w L_mix) / (1 + w)``. ``replace``: ``L_mix``. ``csml``: the mean of three
    terms, in which the unmixed neighbors are positives too (Xu 2022, arXiv:2012.02733, its code).
    """

    def terms(
        self,
        encode: Callable[[Tensor], Tensor],
        view: Float[Tensor, "m c h w"],
        mixed: Mixed,
        keys: Float[Tensor, "m d"],
        queue: Float[Tensor, "k d"],
        temperature: float,
    ) -> dict[str, Tensor]:
        """Return the terms of ``contrast``; ``encode`` maps images to unit queries."""
        queries = [encode(images) for images in self.clean_queries(view)]
        return self.contrast(queries, encode(mixed.image), keys, mixed, queue, temperature)

    def clean_queries(self, view: Float[Tensor, "m c h w"]) -> tuple[Tensor, ...]:
        """Return the unmixed images that are queries: none, anchors, or anchors and neighbors."""
        return anchors_and_neighbors(view)[: {"replace": 0, "add": 1, "csml": 2}[self.mode]]

    def combine(self, clean: Tensor | None, mixed: Tensor) -> dict[str, Tensor]:
        """Return the weighted terms of ``add`` or ``replace``; their sum is the loss."""
        if clean is None:
            return {"mixed_0": mixed}
        total = 1 + self.weight
        return {"clean": clean / total, "mixed_0": self.weight / total * mixed}

    def contrast(
        self,
        queries: Sequence[Float[Tensor, "n d"]],
        mixture: Float[Tensor, "n d"],
        keys: Float[Tensor, "m d"],
        mixed: Mixed,
        queue: Float[Tensor, "k d"],
        temperature: float,
    ) -> dict[str, Tensor]:
        """Return the terms of InfoNCE; their sum is the loss.

        ``L_mix = lam l(q~, k_i) + (1 - lam) l(q~, k_j)``, with a softmax for each positive or one
        for both.

        Args:
            queries: unit rows, of the images that ``clean_queries`` returned.
            mixture: unit rows, of the mixture.
            keys: unit rows, of the n anchors and then of the n neighbors.
            mixed: the mixture; ``partner`` is the row of the second key, j.
            queue: negatives.
            temperature: of all softmaxes.
        """
        own, other = keys[: len(mixture)], keys[mixed.partner]
        if self.denominator == "shared":
            negatives = log_negatives(mixture, queue, temperature)
            self_paired = mixed.partner < len(mixture)
            rows = soft_nce(mixture, own, other, mixed.lam, self_paired, negatives, temperature)
        else:
            rows = on_mixture(info_nce_against(mixture, queue, temperature), mixture, keys, mixed)
        pairs = [(q, info_nce_against(q, queue, temperature)) for q in queries]
        if self.mode == "csml":
            plain = [(loss(q, own) + loss(q, other)) / 2 for q, loss in pairs]
            return {"clean": torch.stack(plain).sum(0).mean() / 3, "mixed_0": rows.mean() / 3}
        clean = [loss(q, own).mean() for q, loss in pairs]
        return self.combine(clean[0] if clean else None, rows.mean())


@full_precision
def soft_nce(
    q: Float[Tensor, "n d"],
    own: Float[Tensor, "n d"],
    other: Float[Tensor, "n d"],
    lam: Float[Tensor, " n"],
    self_paired: Bool[Tensor, " n"],
    negatives: Float[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return ``-lam log p(own) - (1 - lam) log p(other)``, p one softmax over both and the queue.

    Source: Lee 2021 (i-Mix), arXiv:2010.08887.

    Args:
        q: queries.
        own: the key of each anchor.
        other: the key of each anchor's neighbor.
        lam: weight of ``own``.
        self_paired: rows whose two keys are the same one, which counts once.
        negatives: ``log_negatives(q, queue, T)``.
        temperature: T.
    """
    to_own = (q * own).sum(1) / temperature
    to_other = (q * other).sum(1) / temperature
    second = torch.where(self_paired, -torch.inf, to_other)
    total = torch.logaddexp(torch.logaddexp(to_own, second), negatives)
    return total - lam * to_own - (1 - lam) * to_other
