"""SwAV's cross-entropies over pairs of views, with mixtures in some: the formula and the release.

Shen 2022, 2003.05438. The published numbers come from code that is not the paper's formula. Its
three habits are flags of their own: only codes are reversed (``--swav.reverse code``), each box is
drawn from the share that the box before it left and the last share weighs everything
(``--swav.chained-lam``), and the mixtures are queued as well (``--swav.queue-mixtures``).

Everywhere ``codes`` are those of views 0 and 1, ``log_p`` the log predictions from each view, and
a mixture's stand in the place of its view's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from models.losses.assignment import swav
from models.losses.common import on_mixture
from models.modules.queue import Queue
from pipelines.batch import Mixed

Rows = Float[Tensor, "n k"]


def on_pairs(codes: Sequence[Rows], log_p: Sequence[Rows]) -> Float[Tensor, " n"]:
    """Return ``1/2 sum_{a in 0,1} 1/(V-1) sum_{v != a} H(code_a, p_v)``, (n,)."""
    return torch.stack([swav(codes[a], log_p[v]) for a, v in _pairs(log_p)]).mean(0)


def with_mixtures(
    codes: Sequence[Rows], log_p: Sequence[Rows], mixed: Mapping[int, Mixed]
) -> Float[Tensor, " n"]:
    """Return the same with each H weighted for the mixture in it, (n,): the author's formula.

    ``mixed`` holds the mixtures by view; view 1 is clean.
    """
    rows = [
        swav_on_mixture(codes[a], log_p[v], mixed.get(a), mixed.get(v)) for a, v in _pairs(log_p)
    ]
    return torch.stack(rows).mean(0)


def from_mixtures(
    codes: Sequence[Rows], log_p: Sequence[Rows], mixed: Mapping[int, Mixed]
) -> Float[Tensor, " n"]:
    """Return the mean over the pairs that predict from a mixture, where ``codes`` are clean."""
    pairs = [(a, v) for a, v in _pairs(log_p) if v in mixed]
    return torch.stack(
        [swav_on_mixture(codes[a], log_p[v], None, mixed[v]) for a, v in pairs]
    ).mean(0)


def in_both_orders(
    z: Sequence[Float[Tensor, "n d"]],
    log_p: Sequence[Rows],
    mixed: Mixed,
    code: Callable[[Tensor, int, Queue | None], Tensor],
    queue: Queue | None,
    push: Callable[[Sequence[Tensor], int], None] | None,
) -> Float[Tensor, " n"]:
    """Return ``lam S(q_0, q_1) + (1 - lam) S(q_0 reversed, q_1)``, (n,), as the released code does.

    S is ``on_pairs``; the predictions are never reversed.

    Args:
        z: embeddings of the mixture of view 0, and of view 1.
        log_p: log predictions.
        mixed: the mixture of view 0.
        code: makes the codes of embeddings of view 0 or 1, balanced with a queue.
        queue: earlier rows, if any.
        push: puts the embeddings of order 1 (as it is) or 2 (reversed) into the queue, where the
            next order finds them; None: the queue stays as it was for both.
    """
    orders = [z[0], z[1]], [z[0][mixed.partner], z[1]]
    sums = []
    for number, rows in enumerate(orders, start=1):
        seen = queue.ahead() if queue is not None and push is not None else queue
        sums.append(on_pairs([code(rows[a], a, seen) for a in (0, 1)], log_p))
        if push is not None:
            push(rows, number)
    return mixed.lam * sums[0] + (1 - mixed.lam) * sums[1]


def weighed_by_the_last(mixed: Mapping[int, Mixed]) -> dict[int, Mixed]:
    """Return the mixtures with the last view's share of each row in place of their own."""
    last = mixed[max(mixed)]
    return {view: replace(m, lam=last.lam) for view, m in mixed.items()}


def swav_on_mixture(
    code: Rows, log_p: Rows, of_code: Mixed | None, of_p: Mixed | None
) -> Float[Tensor, " n"]:
    """Return SwAV's ``H(code, p)`` weighted for the mixture in it, (n,); j = partner.

    Only ``code`` is a mixture's: ``lam H(code, p) + (1 - lam) H(code, p[j])``. Only ``p`` is:
    ``lam H(code, p) + (1 - lam) H(code[j], p)``. Both or neither: ``H``. Source: the author's
    formula for Shen 2022, 2003.05438.

    Args:
        code: codes of one view.
        log_p: log predictions from another view.
        of_code: the mixture that ``code`` is of, if any.
        of_p: the mixture that ``log_p`` is of, if any.
    """

    def predicted(p: Tensor, q: Tensor) -> Tensor:
        return swav(q, p)

    if of_code is not None and of_p is None:
        return on_mixture(swav, code, log_p, of_code)
    if of_p is not None and of_code is None:
        return on_mixture(predicted, log_p, code, of_p)
    return swav(code, log_p)


def _pairs(log_p: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(a, v) for a in (0, 1) for v in range(len(log_p)) if v != a]
