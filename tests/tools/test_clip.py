"""``--clip-grad``: the logged norm, and gradients clipped as a whole or each."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from launch_cases import flags
from runs import lines, reset_accelerate, run_train, skip_pictures
from torch import Tensor, nn

from tools.engine.clip import clip
from tools.runs import checkpoint


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a tiny run's time."""
    skip_pictures(monkeypatch)


@pytest.fixture
def accelerator() -> Accelerator:
    reset_accelerate()
    return Accelerator(cpu=True)


def weights() -> list[nn.Parameter]:
    """Three tensors with gradients of norms 2, 0.5 and 0, and one without."""
    generator = torch.Generator().manual_seed(1)
    found = [nn.Parameter(torch.zeros(shape)) for shape in ((4, 3), (5,), (2, 2), (3,))]
    for weight, norm in zip(found, (2.0, 0.5, 0.0), strict=False):
        gradient = torch.randn(weight.shape, generator=generator)
        weight.grad = gradient * (norm / gradient.norm())
    return found


def gradients(of: list[nn.Parameter]) -> list[Tensor]:
    return [weight.grad.clone() for weight in of if weight.grad is not None]


def test_without_a_limit_no_bit_changes(accelerator: Accelerator) -> None:
    found = weights()
    before = gradients(found)
    assert clip(accelerator, found, 0.0, each=False).item() == pytest.approx(math.hypot(2, 0.5))
    assert all(a.equal(b) for a, b in zip(before, gradients(found), strict=True))


@pytest.mark.parametrize("limit", [0.1, 1.0, 2.0616, 5.0])
def test_the_whole_is_clipped_as_by_torch(accelerator: Accelerator, limit: float) -> None:
    ours, theirs = weights(), weights()
    norm = clip(accelerator, ours, limit, each=False)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(theirs, limit))
    torch.testing.assert_close(gradients(ours), gradients(theirs))


@pytest.mark.parametrize("limit", [0.1, 1.0, 5.0])
def test_each_is_clipped_by_itself(accelerator: Accelerator, limit: float) -> None:
    """As DINO's code: g limit / (|g| + 1e-6), where that is shorter."""
    found = weights()
    before = gradients(found)
    norm = clip(accelerator, found, limit, each=True)
    assert norm.item() == pytest.approx(math.hypot(2, 0.5))  # of the whole, before
    for g, was in zip(gradients(found), before, strict=True):
        torch.testing.assert_close(g, was * min(1.0, limit / (was.norm().item() + 1e-6)))


def test_the_loss_scale_is_divided_out_first() -> None:
    found, scaler = weights(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(found, lr=1.0)
    scaler.scale(torch.zeros(()))  # the scaler sets itself up when a loss is scaled
    for weight in found[:3]:
        assert weight.grad is not None
        weight.grad *= 1024.0
    process = SimpleNamespace(unscale_gradients=lambda: scaler.unscale_(optimizer))
    norm = clip(process, found, 1.0, each=False)  # type: ignore[arg-type]
    assert norm.item() == pytest.approx(math.hypot(2, 0.5))
    scaler.step(optimizer)
    moved = torch.cat([weight.detach().flatten() for weight in found]).norm()
    assert moved.item() == pytest.approx(1.0, rel=1e-5)


def trained(run: Path) -> dict[str, Tensor]:
    path = checkpoint.last(run / "checkpoints")
    assert path is not None
    return checkpoint.load(path)["method"]


PLAIN = ("--momentum", "0", "--weight-decay", "0", "--schedule", "constant", "--lr", "1")


@pytest.mark.parametrize("accumulate", ["1", "2"])
@pytest.mark.parametrize("each", [False, True])
def test_a_step_is_no_longer_than_the_limit(
    toy: Path, tmp_path: Path, each: bool, accumulate: str
) -> None:
    """SGD at rate 1: the weights' way in a step is the clipped gradient."""
    runs = {}
    for name, more in {
        "still": ("--lr", "0"),
        "clipped": ("--clip-grad", "0.01", *(["--clip-grad-each"] if each else [])),
    }.items():
        more = (*PLAIN, "--accumulate", accumulate, "--limit-steps", "1", *more)
        assert run_train(*flags(toy, tmp_path / name, "moco", *more)) == 0
        runs[name] = tmp_path / name / "run"
    before, after = trained(runs["still"]), trained(runs["clipped"])
    learnt = [k for k in before if k.startswith(("backbone", "head")) and "running" not in k]
    learnt = [k for k in learnt if "num_batches" not in k]
    ways = {k: (after[k] - before[k]).double().norm().item() for k in learnt}
    (free,), (line,) = lines(runs["still"]), lines(runs["clipped"])
    assert line["grad_norm"] == pytest.approx(free["grad_norm"], rel=1e-5) and line["grad_norm"] > 1
    if each:
        assert max(ways.values()) == pytest.approx(0.01, rel=1e-3)
        assert sum(way > 0.0099 for way in ways.values()) > 1
    else:
        assert math.hypot(*ways.values()) == pytest.approx(0.01, rel=1e-3)


def test_micro_batches_have_the_norm_of_the_batch(toy: Path, tmp_path: Path) -> None:
    norms = []
    for count in ("1", "2"):
        more = ("--accumulate", count, "--limit-steps", "2", "--clip-grad", "1")
        assert run_train(*flags(toy, tmp_path / count, "moco", *more)) == 0
        norms.append([line["grad_norm"] for line in lines(tmp_path / count / "run")])
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_a_log_line_has_the_mean_norm_of_its_steps(toy: Path, tmp_path: Path) -> None:
    found = {}
    for every in ("1", "2"):
        more = ("--limit-steps", "2", "--log-every", every)
        assert run_train(*flags(toy, tmp_path / every, "simclr", *more)) == 0
        found[every] = [line["grad_norm"] for line in lines(tmp_path / every / "run")]
    assert found["2"] == pytest.approx([sum(found["1"]) / 2])


def test_the_limit_is_part_of_the_run(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--limit-steps", "1", "--checkpoint-every", "1")
    assert run_train(*flags(toy, tmp_path, "simclr", *more)) == 0
    again = ("--clip-grad", "3", "--resume", "auto", "--limit-steps", "2")
    assert run_train(*flags(toy, tmp_path, "simclr", *again)) == 2
    assert "--clip-grad: 0.0 -> 3.0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (("--clip-grad", "-1"), "--clip-grad"),
        (("--clip-grad-each",), "--clip-grad-each needs --clip-grad NORM"),
    ],
)
def test_what_is_no_limit_is_refused(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], text: str
) -> None:
    assert run_train(*flags(toy, tmp_path, "simclr", *given)) == 2
    assert text in capsys.readouterr().err


def test_a_gradient_that_is_not_finite_is_not_hidden(accelerator: Accelerator) -> None:
    for each in (False, True):
        found = weights()
        assert found[1].grad is not None
        found[1].grad[0] = math.nan
        assert clip(accelerator, found, 1.0, each=each).isnan()
        assert gradients(found)[1].isnan().any()
