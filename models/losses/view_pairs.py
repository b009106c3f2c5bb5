"""Cross-entropies over pairs of views (SwAV, DINO), with mixtures in some views.

Shen 2022, 2003.05438. The published numbers of SwAV come from code that differs from the paper's
formula. Each of its three differences is a flag: only codes are reversed (``--swav.reverse code``);
each box is drawn from the share that the previous box left, and the last share weights all terms
(``--swav.chained-lam``); mixtures enter the queue too (``--swav.queue-mixtures``).

Throughout, ``codes`` are the codes of views 0 and 1, and ``log_p`` the log predictions from each
view. The entries of a mixed view are those of its mixture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from models.losses.assignment import cross_entropy
from models.losses.common import on_mixture
from models.modules.queue import Queue
from pipelines.batch import Mixed

Rows = Float[Tensor, "n k"]


def on_pairs(codes: Sequence[Rows], log_p: Sequence[Rows]) -> Float[Tensor, " n"]:
    """Return ``1/2 sum_{a in 0,1} 1/(V-1) sum_{v != a} H(code_a, p_v)``."""
    return torch.stack([cross_entropy(codes[a], log_p[v]) for a, v in _pairs(log_p)]).mean(0)


def with_mixtures(
    codes: Sequence[Rows], log_p: Sequence[Rows], mixed: Mapping[int, Mixed]
) -> Float[Tensor, " n"]:
    """Return ``on_pairs`` with each H weighted for its mixture: the authors' formula.

    ``mixed`` maps a view to its mixture; view 1 is clean.
    """
    rows = [
        cross_entropy_on_mixture(codes[a], log_p[v], mixed.get(a), mixed.get(v))
        for a, v in _pairs(log_p)
    ]
    return torch.stack(rows).mean(0)


def from_mixtures(
    codes: Sequence[Rows], log_p: Sequence[Rows], mixed: Mapping[int, Mixed]
) -> Float[Tensor, " n"]:
    """Return the mean over the pairs that predict the code of a clean view from a mixture."""
    rows = [
        cross_entropy_on_mixture(codes[a], log_p[v], None, mixed[v])
        for a, v in _pairs(log_p)
        if v in mixed
    ]
    return torch.stack(rows).mean(0)


def in_both_orders(
    z: Sequence[Float[Tensor, "n d"]],
    log_p: Sequence[Rows],
    mixed: Mixed,
    code: Callable[[Tensor, int, Queue | None], Tensor],
    queue: Queue | None,
    push: Callable[[Sequence[Tensor], int], None] | None,
) -> Float[Tensor, " n"]:
    """Return ``lam S(q_0, q_1) + (1 - lam) S(q_0 reversed, q_1)``, as the released code does.

    S is ``on_pairs``; the predictions are never reversed.

    Args:
        z: embeddings of the mixture of view 0, and of view 1.
        log_p: log predictions of all views.
        mixed: the mixture of view 0.
        code: ``(z, view, queue) -> codes``, balanced together with the rows of the queue.
        queue: earlier rows, if any.
        push: adds embeddings in order 1 (unchanged) or 2 (reversed) to the queue, where the next
            order finds them; None: both orders see the same queue.
    """
    orders = [z[0], z[1]], [z[0][mixed.partner], z[1]]
    sums = []
    for number, rows in enumerate(orders, start=1):
        earlier = queue.with_staged() if queue is not None and push is not None else queue
        sums.append(on_pairs([code(rows[a], a, earlier) for a in (0, 1)], log_p))
        if push is not None:
            push(rows, number)
    return mixed.lam * sums[0] + (1 - mixed.lam) * sums[1]


def with_last_lam(mixed: Mapping[int, Mixed]) -> dict[int, Mixed]:
    """Return the mixtures, all with the ``lam`` of the last one."""
    last = mixed[max(mixed)]
    return {view: replace(m, lam=last.lam) for view, m in mixed.items()}


def cross_entropy_on_mixture(
    code: Rows, log_p: Rows, code_mixed: Mixed | None, p_mixed: Mixed | None
) -> Float[Tensor, " n"]:
    """Return ``H(code, p)``, weighted if one of them comes from a mixture; j = partner.

    Only ``code`` does: ``lam H(code, p) + (1 - lam) H(code, p[j])``. Only ``p`` does: ``lam H(code,
    p) + (1 - lam) H(code[j], p)``. Both or neither: ``H``. Source: the authors' formula for Shen
    2022, 2003.05438.

    Args:
        code: codes of one view.
        log_p: log predictions from another view.
        code_mixed: the mixture behind ``code``, if any.
        p_mixed: the mixture behind ``log_p``, if any.
    """

    def predicted(p: Tensor, q: Tensor) -> Tensor:
        return cross_entropy(q, p)

    if code_mixed is not None and p_mixed is None:
        return on_mixture(cross_entropy, code, log_p, code_mixed)
    if p_mixed is not None and code_mixed is None:
        return on_mixture(predicted, log_p, code, p_mixed)
    return cross_entropy(code, log_p)


def _pairs(log_p: Sequence[Tensor]) -> list[tuple[int, int]]:
    return [(a, v) for a in (0, 1) for v in range(len(log_p)) if v != a]
