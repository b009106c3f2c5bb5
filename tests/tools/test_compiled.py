"""``--compile`` on the host: the same losses, whole graphs, few of them, a line at the limit."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator

import pytest
import torch
from method_cases import CROPS, Case, build, make_batch, total
from torch._dynamo import config, reset
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters

from models.methods import Method
from models.modules.batchnorm import BatchNorm
from tools.engine.compiled import MOST_GRAPHS, compile_encoders, rows_vary

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
SYMMETRIC = (("symmetric", True), ("queue", 40))
CASES = [
    case
    for bn in ("group", "sync")
    for case in (
        Case("moco", SYMMETRIC, bn, groups=2),
        Case("byol", (), bn, groups=2),
        Case("swav", (), bn, sizes=CROPS, groups=2),
    )
]
GRAPHS = 2
"""Of training, of each case: one for each encoder, or for each size of the views."""


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No graphs at first, torch's own limit at last; and no checks of types, which break graphs."""
    for name, function in vars(BatchNorm).copy().items():
        if inspect.isfunction(function):
            monkeypatch.setattr(BatchNorm, name, inspect.unwrap(function))
    with config.patch(recompile_limit=config.recompile_limit):
        reset()
        counters.clear()
        yield
        reset()
    torch_log = logging.getLogger("torch._dynamo.convert_frame")
    for handler in list(torch_log.handlers):
        torch_log.removeHandler(handler)


def losses(case: Case, method: Method) -> list[float]:
    weights = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(weights, 0.05, 0.9)
    found = []
    for step in range(5):
        loss = total(method(make_batch(case, step)))
        loss.backward()
        method.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step((step + 1) / 5)
        found.append(loss.item())
    return found


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_compiled_run_has_the_losses_of_another_and_whole_graphs(case: Case) -> None:
    """Also evaluated, in batches of any length, with the encoder that is scored."""
    eager = losses(case, build(case))
    method = build(case)
    backend = CompileCounterWithBackend("aot_eager" if case.bn == "sync" else "eager")
    compile_encoders(method.encoders(), pytest.fail, backend)
    assert losses(case, method) == pytest.approx(eager, rel=0, abs=1e-5)
    assert backend.frame_count == GRAPHS
    method.eval()
    with torch.no_grad():
        for images, n in rows_vary((torch.randn(n, 3, 8, 8).double(), n) for n in (16, 16, 5, 7)):
            assert len(method.features(images)) == n
    assert backend.frame_count <= GRAPHS + 2
    assert not counters["graph_break"] and not counters["unimplemented"]


def test_where_torch_gives_up_a_line_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.engine.compiled.MOST_GRAPHS", 2)
    config.recompile_limit = 1
    lines: list[str] = []
    encoder = build(Case("moco")).backbone
    compile_encoders([encoder], lines.append, "eager")
    for side, said in ((4, 0), (6, 0), (8, 1), (10, 1)):
        encoder(torch.zeros(8, 3, side, side).double())
        assert len(lines) == said
    assert lines[0].startswith("--compile: the encoder needs more than 2 graphs")
    assert "--multi-scale" in lines[0]


def test_torch_s_limit_is_raised_and_a_user_s_own_higher_one_stays() -> None:
    config.recompile_limit = 8
    compile_encoders([])
    assert config.recompile_limit == MOST_GRAPHS > 8
    config.recompile_limit = 100
    compile_encoders([])
    assert config.recompile_limit == 100
