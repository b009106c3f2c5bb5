"""Fast paths are used where they equal PyTorch, and only there; shown on the host."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import device_path_cases
import pytest
import torch
from processes import in_group
from torch import Tensor

from pipelines.augment import build, reference, triton
from pipelines.system import device_path, transfer
from pipelines.system.device_path import DevicePath, PathRefused, Verdict, largest_difference

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def plain(device: torch.device) -> list[Tensor]:
    return [torch.arange(4.0, device=device)]


def raises(device: torch.device) -> list[Tensor]:
    raise RuntimeError("an illegal instruction\nand a long trace")


def other_shape(device: torch.device) -> list[Tensor]:
    return [torch.zeros(3)]


def path_of(fast: Any, **options: Any) -> DevicePath:
    return DevicePath("a path", fast, plain, **({"tolerance": 1e-3} | options))


WAYS: dict[str, tuple[DevicePath, Verdict]] = {
    "equal": (path_of(lambda d: [plain(d)[0] + 5e-4]), Verdict("a path", True, 5e-4)),
    "wrong": (
        path_of(lambda d: [plain(d)[0] * 2]),
        Verdict("a path", False, 3.0, "it differs by 3.0e+00, and 1e-03 is allowed"),
    ),
    "not a number": (
        path_of(lambda d: [plain(d)[0] / 0]),
        Verdict("a path", False, torch.inf, "it differs by inf, and 1e-03 is allowed"),
    ),
    "missing": (
        path_of(raises, missing=lambda: "there is no compiler"),
        Verdict("a path", False, None, "it is missing: there is no compiler"),
    ),
    "raises": (
        path_of(raises),
        Verdict("a path", False, None, "it raised RuntimeError: an illegal instruction"),
    ),
    "other shape": (
        path_of(other_shape),
        Verdict(
            *("a path", False, None),
            "it raised ValueError: results of shapes [(3,)] instead of [(4,)]",
        ),
    ),
}


@pytest.fixture(autouse=True)
def nothing_known() -> Iterator[None]:
    paths = [*(path for path, _ in WAYS.values()), build.FUSED_AUGMENTATION, transfer.SIDE_STREAM]
    with device_path.only("auto", paths):
        yield


@pytest.mark.parametrize("way", WAYS)
def test_a_path_is_used_if_it_equals_pytorch_and_one_line_says_if_not(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, expected = WAYS[way]
    assert [path.usable(CPU) for _ in range(3)] == [expected.used] * 3
    found = path.verdict(CPU)
    assert (found.used, found.reason) == (expected.used, expected.reason)
    if expected.difference is None:
        assert found.difference is None
    else:
        assert found.difference == pytest.approx(expected.difference, rel=1e-3)
    silence = "the plain path is used; --device-paths plain silences this"
    said = [] if expected.used else [f"a path: {expected.reason}; {silence}"]
    assert caplog.messages == said
    assert all(r.levelno == logging.WARNING for r in caplog.records)


@pytest.mark.parametrize("way", WAYS)
def test_fused_refuses_what_auto_replaces(way: str) -> None:
    path, expected = WAYS[way]
    with device_path.only("fused", [path]):
        if expected.used:
            assert path.usable(CPU)
            return
        with pytest.raises(
            PathRefused, match="--device-paths fused: a path cannot be used"
        ) as told:
            path.usable(CPU)
        assert expected.reason in str(told.value) and "--device-paths auto" in str(told.value)


def test_plain_runs_and_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    for mode in ("plain", "auto"):
        with device_path.only(mode, [path := path_of(raises)]):  # type: ignore[arg-type]
            assert not path.usable(CPU)
            assert len(caplog.messages) == (mode == "auto")


def test_a_path_is_compared_once_on_each_device() -> None:
    seen: list[torch.device] = []
    path = path_of(lambda d: seen.append(d) or plain(d))
    assert all(path.usable(CPU) for _ in range(3)) and seen == [CPU]
    with device_path.only("plain"):
        assert not path.usable(CPU)
    assert path.usable(CPU) and seen == [CPU]


def test_a_device_that_is_broken_afterwards_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(device: torch.device) -> list[Tensor]:
        monkeypatch.setattr(torch, "zeros", lambda *_, **__: raises(device))
        raise RuntimeError("an illegal address")

    with pytest.raises(RuntimeError, match=r"broke the device \(an illegal address\).*plain"):
        path_of(breaks).usable(CPU)


def test_the_largest_difference() -> None:
    inf, nan = torch.inf, torch.nan
    a, b = torch.tensor([1.0, inf, nan, -2.0]), torch.tensor([1.5, inf, nan, -2.0])
    assert largest_difference([a], [b]) == 0.5
    assert largest_difference([a, b], [a, b]) == 0
    assert largest_difference([torch.tensor([nan])], [torch.tensor([0.0])]) == inf
    assert largest_difference([torch.tensor([3], dtype=torch.uint8)], [torch.tensor([5])]) == 2
    assert largest_difference([torch.zeros(0)], [torch.zeros(0)]) == 0


def test_the_summary_names_every_path() -> None:
    paths = [WAYS["equal"][0], WAYS["missing"][0]]
    assert device_path.summary(paths, CPU) == (
        "a path: used, differs by 5.0e-04; "
        "a path: the plain path, it is missing: there is no compiler"
    )


def fake_kernels(wrong: float) -> SimpleNamespace:
    """PyTorch's augmentation with an error, in the place of Triton's."""

    def augment(*args: Any) -> Tensor:
        return reference.augment(*args) + wrong

    return SimpleNamespace(plan=reference.plan, augment=augment)


@pytest.mark.parametrize("wrong", [0.0, 0.5])
def test_the_augmenter_of_a_gpu_is_the_one_that_is_right(
    wrong: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(build, "triton", kernels := fake_kernels(wrong))
    monkeypatch.setattr(build.FUSED_AUGMENTATION, "missing", lambda: "")
    chosen = build.gpu_augmenter(CPU)
    assert chosen is (reference if wrong else kernels)
    assert caplog.messages == [
        "fused augmentation: it differs by 5.0e-01, and 1e-04 is allowed; the plain path is used; "
        "--device-paths plain silences this"
    ] * bool(wrong)


def test_the_sample_of_the_augmentation_has_every_operation() -> None:
    plan = triton.plan(build.SAMPLE, build.sample_params())
    params = build.sample_params()
    assert set(plan.codes[:, 5:].unique().tolist()) == {-1, 0, 1, 2, 3, 4}
    for some in (params.flip, params.vertical_flip, params.solarize, params.sigma > 0):
        assert 0 < some.sum() < len(some)
    assert set(params.quarter_turns.tolist()) == {0, 1, 2, 3}


def test_a_wrong_side_stream_leaves_the_copies_to_the_current_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert transfer.copy_stream(CPU) is None
    own, training = (MagicMock(spec=torch.cuda.Stream) for _ in range(2))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: own)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: training)
    for usable, stream in ((True, own), (False, training)):
        monkeypatch.setattr(transfer.SIDE_STREAM, "usable", lambda device, u=usable: u)
        assert transfer.copy_stream(CUDA) is stream


def test_processes_agree_where_they_must_and_one_of_them_says_it(tmp_path: Path) -> None:
    """The second process is wrong in two paths, both are in the third."""
    first, second = in_group(2, tmp_path, device_path_cases.find)
    assert first["used"] == [False, True, False] and second["used"] == [False, False, False]
    said = first["said"] + second["said"]
    assert sorted(line.partition(":")[0] for line in said) == ["alone", "nowhere", "together"]
    assert "another process cannot use it" in first["refused"]
    assert "it differs by 1.0e+00" in second["refused"]
