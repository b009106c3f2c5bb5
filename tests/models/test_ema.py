"""Momentum encoders start equal to the online network and follow it as an EMA."""

from __future__ import annotations

import pytest
import torch
from method_cases import CROPS, Case, build

from models.modules.ema import cosine_momentum


def test_cosine_momentum() -> None:
    assert cosine_momentum(0.996, 0.0) == pytest.approx(0.996)
    assert cosine_momentum(0.996, 0.5) == pytest.approx(0.998)
    assert cosine_momentum(0.996, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("name", ["moco-v3", "dino"])
def test_followers_start_equal_and_follow(name: str) -> None:
    method = build(Case(name, (("momentum", 0.5),), sizes=CROPS if name == "dino" else (8, 8)))
    online, follower = [method.backbone, method.head], [getattr(method, "key_encoder", None)]
    if name == "dino":
        online.append(method.prototypes)
        follower = [method.teacher, method.teacher_prototypes]
    fast = [p for part in online for p in part.parameters()]
    slow = [p for part in follower for p in part.parameters()]
    start = [p.detach().clone() for p in slow]
    assert all(a.equal(b) for a, b in zip(slow, fast, strict=True))
    with torch.no_grad():
        for p in fast:
            p.add_(1.0)
    for progress in (0.0, 1.0):  # the momentum has risen to 1 at the end
        method.after_step(progress)
        for p, before in zip(slow, start, strict=True):
            torch.testing.assert_close(p.detach(), before + 0.5, rtol=0, atol=1e-12)
