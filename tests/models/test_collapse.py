"""The collapse monitors at their extremes."""

from __future__ import annotations

import pytest
import torch
from oracles import rows

from models import collapse


def test_monitors() -> None:
    same = torch.ones(8, 4)
    assert float(collapse.feature_std(same)) == pytest.approx(0, abs=1e-6)
    spread = rows(4000, 16, 18, unit=False)
    assert float(collapse.feature_std(spread)) == pytest.approx(1, abs=0.02)
    assert float(collapse.effective_rank(same)) == pytest.approx(1, abs=1e-4)
    assert float(collapse.effective_rank(torch.eye(5, 9))) == pytest.approx(5, abs=1e-4)
    assert float(collapse.prototype_usage(torch.eye(6))) == pytest.approx(1)
    assert float(collapse.prototype_usage(torch.eye(6)[[0] * 6])) == pytest.approx(1 / 6)
