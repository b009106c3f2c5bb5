"""SwAV with Un-Mix as in the released code: NumPy float64 loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from method_cases import CROPS, RELEASED, Case, build, make_batch, mirrored
from oracles import check, rows
from torch import Tensor

from models.losses.view_pairs import in_both_orders
from pipelines.batch import Mixed

LAM = torch.tensor([0.3, 0.3, 0.3, 0.3, 0.9, 0.9, 0.9, 0.9], dtype=torch.float64)


def loop_sinkhorn(scores: np.ndarray) -> np.ndarray:
    q = np.exp(scores / 0.05)
    for _ in range(3):
        for k in range(q.shape[1]):
            q[:, k] /= q[:, k].sum()
        for i in range(len(q)):
            q[i] /= q[i].sum()
    return q


def test_swav_as_released_over_iterations() -> None:
    """Spec 1.8: three calls, each pushes, only codes are reversed, the last share weighs all."""
    case = Case("swav", (*RELEASED.items(), ("queue", 48), ("queue_start_epoch", 0)), sizes=CROPS)
    method, flip = build(case), mirrored(16, 4).numpy()
    queues: list[list[np.ndarray]] = [[], []]  # the newest last
    weights = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for step in range(3):
        batch = make_batch(case, step)
        mixed = [replace(m, lam=w.expand(16)) for m, w in zip(batch.mixed, weights, strict=True)]
        batch = replace(batch, mixed=tuple(mixed))
        images = [*batch.views, *(m.image for m in batch.mixed)]
        z = [part.detach().numpy() for part in method.embed_views(images).chunk(len(images))]
        prototypes = method.prototypes.weight.detach().numpy()
        log_p = []
        for rows_of in (z[4], z[1], z[5], z[3]):  # mixtures in their views' places
            p = np.exp(rows_of @ prototypes.T / 0.1)
            log_p.append(np.log(p / p.sum(1, keepdims=True)))
        values = []
        for assigned in ((z[0], z[1]), (z[4], z[1]), (z[4][flip], z[1])):
            value = 0.0
            for a in (0, 1):
                earlier = queues[a] if len(queues[a]) == 48 else []
                code = loop_sinkhorn(np.stack([*earlier, *assigned[a]]) @ prototypes.T)[-16:]
                pairs = [-(code * log_p[v]).sum(1).mean() for v in range(4) if v != a]
                value += sum(pairs) / 3 / 2
            for a in (0, 1):
                queues[a] = [*queues[a], *assigned[a]][-48:]
            values.append(value)
        terms = method(batch)
        check(terms["mixed"], 0.7 * values[1] + 0.3 * values[2], 1e-9)
        method.after_step(0.0)
        for a in (0, 1):  # one iteration fills a queue of three batches
            held = method.queue.rows.chunk(2, 1)[a].numpy()
            np.testing.assert_allclose(
                np.sort(held, 0), np.sort(np.stack(queues[a]), 0), atol=1e-12
            )


def test_without_queue_mixtures_both_orders_see_the_same_queue() -> None:
    seen = []

    def code(z: Tensor, view: int, queue: object) -> Tensor:
        seen.append(queue)
        return z.softmax(1)

    z, log_p = [rows(8, 5, 50), rows(8, 5, 51)], [rows(8, 5, s).log_softmax(1) for s in (52, 53)]
    mixed = Mixed(0, torch.zeros(8, 3, 1, 1), mirrored(8, 2), LAM)
    value = in_both_orders(z, log_p, mixed, code, None, None)
    assert seen == [None] * 4
    q, lam = [x.softmax(1).numpy() for x in z], LAM.numpy()
    p = [x.numpy() for x in log_p]
    own = -(q[0] * p[1]).sum(1)
    back = -(q[0][mirrored(8, 2).numpy()] * p[1]).sum(1)
    from_mixture = -(q[1] * p[0]).sum(1)  # weight 1 whatever lam is
    check(value, (lam * own + (1 - lam) * back + from_mixture) / 2)
