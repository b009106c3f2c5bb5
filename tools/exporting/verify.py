"""Verify an export: run the model card's code, and compare its features with the run's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tools.exporting.source import Source

COUNTS = (1, 3)
"""Batch sizes of the comparison."""


def quoted(path: Path | str) -> str:
    """Return a path as a Python string literal."""
    return json.dumps(str(path), ensure_ascii=False)


def run_example(code: str) -> Callable[[Tensor], Tensor]:
    """Return a function from images to features that runs a model card's example."""

    def encode(images: Tensor) -> Tensor:
        names: dict[str, Any] = {"images": images}
        exec(compile(code, "model card", "exec"), names)
        return torch.as_tensor(names["features"])

    return encode


@torch.no_grad()
def largest_difference(
    source: Source, encode: Callable[[Tensor], Tensor], sides: Sequence[int] = ()
) -> float:
    """Return the largest difference of features, as a share of the largest feature.

    Args:
        source: the reference encoder.
        encode: the export, as a function from images to features.
        sides: sides of the test images in pixels (empty: the run's image size).
    """
    worst = 0.0
    for side in sides or (source.size,):
        for count in COUNTS:
            images = source.images(count, side)
            ours, theirs = source.encoder(images), encode(images)
            if ours.shape != theirs.shape:
                raise ValueError(f"features are {tuple(theirs.shape)}, not {tuple(ours.shape)}")
            worst = max(worst, float((ours - theirs).abs().max() / ours.abs().max()))
    return worst
