"""``--accumulate``: micro-batches give the loss, gradient and state of the whole batch."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
import clim_cases
import method_cases
from clim_cases import ClimCase
from launch_cases import flags, recorded_rows
from method_cases import Case, assert_law_4
from runs import lines, reset_accelerate, run_train, skip_pictures

from models.accumulation import average_running_stats
from models.methods import METHODS, Method
from models.modules.queue import Queue
from models.modules.shuffle_bn import StepKeys
from pipelines.batch import Batch
from tools.engine import accumulation
from tools.engine.accumulation import backward
from tools.runs import checkpoint
from tools.runs.checkpoint import last

STEPS = 10
CROPS = (8, 8, 4, 4)
SEPARABLE = [
    Case("moco", bn="group", mixed=False),
    Case("moco", bn="group"),
    Case("moco", (("symmetric", True), ("queue", 40)), bn="group"),
    Case("byol", bn="group"),
    Case("simsiam", bn="group"),
    Case("dino", (("head_bn", True),), bn="group", sizes=CROPS),
    Case("insdis", (("softmax", True),), bn="group", mixed=False, sizes=(8,)),
    Case("cmc", (("softmax", True),), bn="group", mixed=False, sizes=(8,)),
]
CLIM = [
    ClimCase("moco"),
    ClimCase("moco", mode="csml", denominator="shared"),
    ClimCase("byol", mode="replace"),
]


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time."""
    skip_pictures(monkeypatch)


def whole(case: Case | ClimCase, step: int) -> Batch:
    made = clim_cases.make_batch if isinstance(case, ClimCase) else method_cases.make_batch
    return made(case, step)  # type: ignore[arg-type]


def built(case: Case | ClimCase) -> Method:
    made = clim_cases.build if isinstance(case, ClimCase) else method_cases.build
    return made(case)  # type: ignore[arg-type]


def train_in_parts(case: Case | ClimCase, count: int) -> dict[str, Tensor]:
    """What ``method_cases.train_on`` returns, of the step as train.py makes it."""
    reset_accelerate()
    accelerator, method = Accelerator(cpu=True), built(case)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    out: dict[str, Tensor] = {}
    for step in range(STEPS):
        terms = backward(accelerator, method, method, whole(case, step), count)
        if step in (0, STEPS - 1):
            when = "first" if step == 0 else "last"
            out |= {f"{when}/loss/{k}": v.detach() for k, v in terms.items()}
            gradients = {k: v.grad for k, v in method.named_parameters() if v.grad is not None}
            out |= {f"{when}/grad/{k}": v.clone() for k, v in gradients.items()}
        method.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step / STEPS)
    return out | {f"last/state/{k}": v for k, v in method.state_dict().items()}


@pytest.mark.parametrize("case", [*SEPARABLE, *CLIM], ids=str)
def test_micro_batches_equal_the_batch(case: Case | ClimCase) -> None:
    """Loss, gradient, queues, banks, centres and running statistics; both counts of parts."""
    make = clim_cases.train if isinstance(case, ClimCase) else method_cases.train
    alone = make(case, STEPS)  # type: ignore[arg-type]
    assert_law_4(alone, [train_in_parts(case, 2)])
    assert_law_4(alone, [train_in_parts(case, 4)])


@pytest.mark.parametrize("broken", ["keys", "statistics", "queue"])
def test_the_check_fails_without_what_makes_it_exact(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = method_cases.train(SEPARABLE[1], STEPS)
    stage = Queue.stage

    def last_part_alone(queue: Queue, step: int, rows: Tensor, place: Tensor) -> None:
        queue._staged.clear()
        stage(queue, step, rows, place)

    if broken == "keys":  # groups shuffled inside a micro-batch
        monkeypatch.setattr(StepKeys, "encode_ahead", lambda *_: None)
    elif broken == "statistics":
        monkeypatch.setattr(accumulation, "average_running_stats", lambda _, parts: parts)
    else:
        monkeypatch.setattr(Queue, "stage", last_part_alone)
    with pytest.raises(AssertionError):
        assert_law_4(alone, [train_in_parts(SEPARABLE[1], 2)])


@pytest.mark.parametrize("case", [SEPARABLE[1], CLIM[0]], ids=str)
def test_parts_hold_every_row_once_with_its_partners(case: Case | ClimCase) -> None:
    batch = whole(case, 0)
    parts = batch.parts(4)
    for name in ("index", "label", "position"):
        assert torch.cat([getattr(part, name) for part in parts]).equal(getattr(batch, name))
    rows, start = len(batch.index), 0
    for part in parts:
        n, m, all_m = len(part.index), part.mixed[0], batch.mixed[0]
        own = torch.arange(start, start + n)
        beside = [own + rows] if len(batch.views[0]) > rows else []
        for view, everyone in zip(part.views, batch.views, strict=True):
            assert view.equal(everyone[torch.cat([own, *beside])])
        assert m.image.equal(all_m.image[own]) and m.lam.equal(all_m.lam[own])
        partners = part.views[1][m.partner]  # of other pixels, were they another image's
        assert partners.equal(batch.views[1][all_m.partner[own]])
        start += n


def test_running_statistics_end_at_the_mean() -> None:
    norm = torch.nn.BatchNorm1d(2, momentum=0.25)
    mean = norm.running_mean
    assert mean is not None
    before = mean.clone()
    ends = []
    for part in average_running_stats(norm, [torch.randn(4, 2) + i for i in range(3)]):
        assert mean.equal(before)
        norm(part)
        norm(part * 2)
        ends.append(mean.clone())
    torch.testing.assert_close(mean, torch.stack(ends).mean(0))
    assert norm.num_batches_tracked == 2


REFUSED = {
    "simclr": ("--bn", "group", "NT-Xent"),
    "moco": ("--bn", "sync", "--bn sync"),
    "swav": ("--bn", "group", "Sinkhorn"),
    "wmse": ("--bn", "group", "whitened"),
    "barlow": ("--bn", "group", "correlations"),
    "vicreg": ("--bn", "group", "covariances"),
    "moco-v3": ("--bn", "group", "the keys that a query meets"),
    "cmc": ("--bn", "group", "NCE's constant"),
}


@pytest.mark.parametrize("method", REFUSED)
def test_what_would_be_another_loss_is_refused(
    toy: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    *more, what = REFUSED[method]
    argv = flags(toy, tmp_path, method, *more, "--accumulate", "2", "--limit-steps", "1")
    assert run_train(*argv) == 2
    said = capsys.readouterr().err
    assert "--accumulate 2 would not be the same run" in said and what in said
    assert "--accumulate-inexact" in said and not (tmp_path / "run").exists()
    assert run_train(*argv, "--accumulate-inexact") == 0
    assert what in capsys.readouterr().out
    assert lines(tmp_path / "run")[-1]["step"] == 1


def test_every_method_says_what_it_looks_at() -> None:
    for name, entry in METHODS.items():
        stated = {key for part in entry.settings.__mro__[:-2] for key in vars(part)}
        assert stated & {"batch_coupling", "describe_coupling"}, name
        assert isinstance(entry.settings().describe_coupling(), str)


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--accumulate", "0"), "--accumulate must be at least 1"),
        (("--accumulate", "3"), "--batch-size 16 cannot be shared by 1 process with --acc"),
        (("--accumulate", "8"), "--groups 4 and 1 process with --accumulate 8 do not divide"),
    ],
)
def test_parts_that_do_not_divide_are_refused(
    toy: Path, tmp_path: Path, more: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_train(*flags(toy, tmp_path, "moco", *more)) == 2
    assert named in capsys.readouterr().err


def test_whitening_needs_whole_sub_batches(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--accumulate", "4", "--accumulate-inexact", "--bn", "sync")
    assert run_train(*flags(toy, tmp_path, "wmse", *more)) == 2
    assert "micro-batches of 4 images" in capsys.readouterr().err


def test_a_run_goes_on_with_another_accumulate(toy: Path, tmp_path: Path) -> None:
    """The straight run's rows, each image decoded once a step, and its losses."""
    argv = {name: flags(toy, tmp_path / name, "moco", "--mix", "unmix") for name in ("a", "b")}
    straight = recorded_rows(*argv["a"], "--limit-steps", "5", double=True)
    seen = recorded_rows(*argv["b"], "--accumulate", "4", "--limit-steps", "2", double=True)
    again = ("--resume", "auto", "--accumulate", "2", "--limit-steps", "5")
    seen += recorded_rows(*argv["b"], *again, double=True)
    assert seen == straight
    one, other = (lines(tmp_path / name / "run") for name in ("a", "b"))
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
    saved = [last(tmp_path / name / "run" / "checkpoints") for name in ("a", "b")]
    a, b = (checkpoint.load(path)["method"] for path in saved if path)
    for name, value in a.items():
        torch.testing.assert_close(b[name], value, rtol=0, atol=1e-6)
