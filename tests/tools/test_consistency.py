"""``--check-ranks``: processes that diverge are detected, and the differing tensors named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate.state import PartialState

sys.path.insert(0, str(Path(__file__).parents[1]))
from launch_cases import flags, recorded_rows
from method_cases import Case, build
from processes import in_group
from runs import lines, run_train, skip_pictures

from models.methods import Method
from models.modules import queue
from tools.distributed.consistency import common, digest, unlike
from tools.engine import trainer
from tools.runs import checkpoint

WORLD = 2
CHECKED = ("--mix", "unmix", "--limit-steps", "3", "--check-ranks", "1")


def own_flags(toy: Path, folder: Path) -> tuple[str, ...]:
    return (*flags(toy, folder, "moco"), *CHECKED)


def move_a_weight(method: Method, name: str) -> None:
    """Change one number of the second process."""
    with torch.no_grad():
        method.get_parameter(name).view(-1)[:1] += dist.get_rank()


def work(toy: Path, folder: Path) -> dict[str, Any]:
    """What one of two processes does: a run with micro-batches, then two that drift apart."""
    sys.stderr = (folder / f"said-{dist.get_rank()}.txt").open("w", buffering=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialState, "destroy_process_group", lambda *_: None)
        skip_pictures(patch)
        rows = recorded_rows(*own_flags(toy, folder / "parts"), "--accumulate", "2", double=True)
        with patch.context() as broken:
            broken.setattr(queue, "distributed", SimpleNamespace(gather=lambda x: x))
            assert run_train(*own_flags(toy, folder / "queue")) == 2
        step = trainer.Run.train_on

        def drifting(run: trainer.Run, batch: object) -> None:
            step(run, batch)  # type: ignore[arg-type]
            if run.steps_done == 1:
                move_a_weight(run.method, "head.0.weight")

        patch.setattr(trainer.Run, "train_on", drifting)
        assert run_train(*own_flags(toy, folder / "weight")) == 2
    return {"rows": rows}


@pytest.fixture(scope="module")
def ranks(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """The folder of what two processes did, and the rows that each of them saw."""
    folder = tmp_path_factory.mktemp("ranks")
    return folder, [found["rows"] for found in in_group(WORLD, folder, work, toy, folder)]


def test_a_queue_without_its_gather_is_noticed(ranks: tuple[Path, list[Any]]) -> None:
    for rank in range(WORLD):
        said = (ranks[0] / f"said-{rank}.txt").read_text()
        assert "after step 1 the processes do not hold the same queue.rows (process 1)" in said
    assert not list((ranks[0] / "queue/run/checkpoints").glob("*.pt"))


def test_a_weight_that_moved_is_named(ranks: tuple[Path, list[Any]]) -> None:
    said = (ranks[0] / "said-0.txt").read_text()
    assert "after step 2 the processes do not hold the same head.0.weight (process 1)" in said


def test_micro_batches_of_two_processes_equal_one_batch(
    toy: Path, tmp_path: Path, ranks: tuple[Path, list[Any]]
) -> None:
    """Same rows, each once a step; same losses and weights; and the ranks held the same."""
    alone = recorded_rows(*own_flags(toy, tmp_path), double=True)
    folder, parts = ranks
    joined = [(s, [*a, *b]) for (s, a), (_, b) in zip(*parts, strict=True)]
    assert joined == alone
    many = lines(folder / "parts/run")
    assert [line["world_size"] for line in many] == [WORLD] * 3
    for one, line in zip(lines(tmp_path / "run"), many, strict=True):
        assert line["loss"] == pytest.approx(one["loss"], abs=1e-6)
    saved = [checkpoint.last(run / "run/checkpoints") for run in (tmp_path, folder / "parts")]
    a, b = (checkpoint.load(path)["method"] for path in saved if path)
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bn", ["group", "sync"])
def test_what_is_compared(bn: str) -> None:
    """Everything in a checkpoint but the running statistics that each process has of its own."""
    method = build(Case("moco", bn=bn))
    found, state = dict(common(method, None)), set(method.state_dict())
    own = {name for name in state if name.endswith(("running_mean", "running_var"))}
    assert own and state - found.keys() == (own if bn == "group" else set())
    assert {"queue.rows", "queue.pointer", "neighbours.rows"} <= found.keys()


def test_a_digest_sees_every_bit_and_the_shape() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        x = torch.zeros(3, 4, dtype=dtype)
        y = x.clone()
        y[2, 3] = 1
        assert digest(x) == digest(x.clone()) and digest(x) != digest(y)
        assert digest(x) != digest(x.view(4, 3))
    assert digest(torch.tensor(0.0)) != digest(torch.tensor(-0.0))
    layout = torch.randn(2, 3, 4, 5)
    assert digest(layout) == digest(layout.to(memory_format=torch.channels_last))


def test_the_odd_ones_out() -> None:
    def of(*numbers: int) -> list[int]:
        return unlike(np.array(numbers)).tolist()

    assert of(5, 5, 5) == [] and of(7, 5, 5) == [0] and of(5, 7, 5, 9) == [1, 3]
    assert of(9, 2) == [1]  # of two, the first is taken at its word
