"""Augmentation by Triton without a GPU: Triton's interpreter, and its compiler for two GPUs."""

from pathlib import Path

import numpy as np
import pytest
import torch
from interpreted import compiled, passes_interpreted, run

from pipelines.augment import triton as fused
from pipelines.augment.build import build_augmenter
from pipelines.augment.operations import BRIGHTNESS, CONTRAST, GRAY, HUE, OPS, SATURATION
from pipelines.augment.params import draw_params
from pipelines.presets import PRESETS
from pipelines.rng import RowRng
from pipelines.views import View


def test_equals_pytorch_s_finisher_in_the_interpreter() -> None:
    passes_interpreted("triton_cases.py")


FLOATS, WHOLE, COLOURS = "*fp32", "*i32", ("fp32",) * 3
TYPES = {
    **dict.fromkeys(("codes", "rows", "reaches"), WHOLE),
    **dict.fromkeys(("amounts", "parts", "unblurred", "source", "target", "kernels"), FLOATS),
    **dict.fromkeys(("scale", "shift"), COLOURS),
    "crops": "*u8",
}
SIZES = ("SIZE", "BLOCK", "TILES", "TAPS", "SIDE")


@pytest.mark.parametrize(("capability", "size", "tiles"), [(80, 32, 1), (90, 224, 64)])
def test_every_kernel_compiles_for_a_gpu(
    capability: int, size: int, tiles: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A100 and H100, down to machine code, which keeps all its numbers in registers."""
    pytest.importorskip("triton")
    from pipelines.augment import triton_kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    sizes = dict(zip(SIZES, (size, fused.BLOCK, tiles, 17, fused.SIDE), strict=True))
    for name in ("luma_sums", "color", "blur_down", "blur_across"):
        kernel = getattr(triton_kernels, name)
        for view in ("*fp32", "*bf16") if "out" in kernel.arg_names else (FLOATS,):
            types = {**TYPES, **dict.fromkeys(SIZES, "constexpr"), "out": view}
            compiled(kernel, types, sizes, capability, fused.OPTIONS)


def test_imports_and_says_no_without_triton() -> None:
    code = """
import sys
sys.modules["triton"] = None
import pipelines.loader
import torch
from pipelines.augment import reference
from pipelines.augment.build import build_augmenter
assert build_augmenter(torch.device("cuda")) is reference
"""
    run("-c", code)


def test_an_environment_without_a_compiler_is_not_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("CC", "cc")
    assert build_augmenter(torch.device("cuda")) is fused
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    assert not fused.usable()


@pytest.mark.parametrize("gray_first", [False, True])
def test_the_plan_lists_the_operations_in_their_order(gray_first: bool) -> None:
    """Against a loop over the rows; saturation of strength 0 is left out."""
    view = View(16, jitter=(0.4, 0.4, 0.0, 0.1), gray_first=gray_first, blur=0.5, solarize=0.3)
    side, rows = np.full(64, 300, np.int32), np.arange(64)
    drawn = draw_params(view, 0, RowRng(5, 1), rows, side, side)
    todo = fused.plan(view, drawn)
    blurred = []
    for i in rows:
        jitter = [op for op in drawn.order[i] if op != SATURATION] if drawn.jitter[i] else []
        gray = [GRAY] if drawn.gray[i] else []
        ops = gray + jitter if gray_first else jitter + gray
        orientation, inverted, count, before, slot, *listed = todo.codes[i].tolist()
        assert (orientation, inverted) == (drawn.flip[i], drawn.solarize[i])
        assert listed[:count] == ops
        assert before == (ops.index(CONTRAST) if CONTRAST in ops else count)
        assert (i in todo.contrast) == (CONTRAST in ops)
        for op, amount in zip(ops, todo.amounts[i].tolist(), strict=False):
            turns = drawn.factor[i, HUE] % 1 * 6
            expected = {GRAY: 0, HUE: turns}.get(op, drawn.factor[i, op % 4])
            assert amount == pytest.approx(expected, abs=1e-6)
        assert (slot >= 0) == (drawn.sigma[i] > 0)
        if slot >= 0:
            blurred.append(i)
            assert todo.blur[slot] == i
    assert todo.blur.tolist() == blurred
    assert {BRIGHTNESS, CONTRAST, HUE, GRAY} < set(todo.codes[:, OPS:].unique().tolist())


def test_moving_a_plan_keeps_it() -> None:
    view = PRESETS["byol"](16)[1]
    side = np.full(8, 40, np.int32)
    todo = fused.plan(view, draw_params(view, 0, RowRng(0, 0), np.arange(8), side, side))
    moved = todo.to(torch.device("cpu"))
    pairs = list(zip(todo.tensors(), moved.tensors(), strict=True))
    assert len(pairs) == 6 and all(torch.equal(a, b) for a, b in pairs)


def test_what_no_row_needs_moves_nothing() -> None:
    """Without jitter and blur only the plan is left beside the least possible."""
    view = View(96, jitter_prob=0.0, blur=0.0)
    side = np.full(8, 300, np.int32)
    drawn = draw_params(view, 0, RowRng(0, 0), np.arange(8), side, side)
    moved, least = fused.traffic(view, drawn)
    assert least == 8 * 96 * 96 * 3 * 5
    assert moved - least == sum(t.nbytes for t in fused.plan(view, drawn).tensors())
