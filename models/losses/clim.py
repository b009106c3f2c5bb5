"""CLIM's loss: clean and mixed queries against the keys of anchors and of their neighbours.

Li 2020, arXiv:2011.02697. Only its abstract could be read; what each choice rests on is in
docs/mixtures.md. A batch's views hold n anchors, then their n neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from models.losses.common import full_precision, on_mixture
from models.losses.contrastive import info_nce, log_negatives
from models.settings import ClimMode, Denominator
from pipelines.batch import Mixed


@dataclass(frozen=True)
class ClimLoss:
    """How the clean and the mixed term make one loss.

    ``add``: ``(L_base + w L_mix) / (1 + w)``. ``replace``: ``L_mix``. ``csml``: the plain
    neighbours as positives too, the mean of three terms (Xu 2022, arXiv:2012.02733, its code).
    """

    mode: ClimMode = "add"
    weight: float = 1.0
    denominator: Denominator = "separate"

    def clean_queries(self, view: Float[Tensor, "m c h w"], num: int) -> tuple[Tensor, ...]:
        """Return what is encoded beside the mixture: anchors, and neighbours in ``csml``."""
        halves = view.split(num)
        return halves[: {"add": 1, "replace": 0, "csml": 2}[self.mode]]

    def weigh(self, clean: Tensor | None, mixed: Tensor) -> dict[str, Tensor]:
        """Return the terms of ``add`` or ``replace``; their sum is the loss."""
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

        ``L_mix = lam l(q~, k_i) + (1 - lam) l(q~, k_j)``, with one softmax for each positive or
        one for both.

        Args:
            queries: those of ``clean_queries``, unit rows.
            mixture: queries of the mixture, unit rows.
            keys: of the n anchors, then of the n neighbours.
            mixed: says which key, j, is a row's second.
            queue: negatives.
            temperature: of all softmaxes.
        """
        own, other = keys[: len(mixture)], keys[mixed.partner]

        def against_queue(q: Tensor) -> partial[Tensor]:
            negatives = log_negatives(q, queue, temperature)
            return partial(info_nce, negatives=negatives, temperature=temperature)

        if self.denominator == "shared":
            negatives = log_negatives(mixture, queue, temperature)
            alone = mixed.partner < len(mixture)
            both = soft_nce(mixture, own, other, mixed.lam, alone, negatives, temperature).mean()
        else:
            both = on_mixture(against_queue(mixture), mixture, keys, mixed).mean()
        pairs = [against_queue(q) for q in queries]
        if self.mode == "csml":
            plain = [(to(q, own) + to(q, other)) / 2 for to, q in zip(pairs, queries, strict=True)]
            return {"clean": torch.stack(plain).sum(0).mean() / 3, "mixed_0": both / 3}
        clean = pairs[0](queries[0], own).mean() if queries else None
        return self.weigh(clean, both)


@full_precision
def soft_nce(
    q: Float[Tensor, "n d"],
    own: Float[Tensor, "n d"],
    other: Float[Tensor, "n d"],
    lam: Float[Tensor, " n"],
    alone: Bool[Tensor, " n"],
    negatives: Float[Tensor, " n"],
    temperature: float,
) -> Float[Tensor, " n"]:
    """Return ``-lam log p(own) - (1 - lam) log p(other)``, p one softmax over both and the queue.

    Where a row is ``alone``, both are one key, which counts once. ``negatives`` is
    ``log_negatives(q, queue, T)``. Source: Lee 2021 (i-Mix), arXiv:2010.08887.
    """
    to_own = (q * own).sum(1) / temperature
    to_other = (q * other).sum(1) / temperature
    second = torch.where(alone, -torch.inf, to_other)
    total = torch.logaddexp(torch.logaddexp(to_own, second), negatives)
    return total - lam * to_own - (1 - lam) * to_other
