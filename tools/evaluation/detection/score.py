"""Find the objects of a whole split, each picture by one process; mean average precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from tools.evaluation.detection.examples import Examples, Objects
from tools.evaluation.detection.train import to_tensor
from tools.scoring.features import evaluating


@dataclass(frozen=True, slots=True)
class Detections:
    """What a detector found in one picture, the surest first."""

    boxes: NDArray[np.float32]
    """(n, 4): left, top, right, bottom in the picture's pixels."""
    labels: NDArray[np.int64]
    """(n,), from 0."""
    scores: NDArray[np.float32]


def check_scorer() -> None:
    """Refuse to begin what could not be scored in the end.

    Raises:
        ValueError: pycocotools is not installed.
    """
    if find_spec("pycocotools") is None:
        raise ValueError(
            "detection is scored by pycocotools, which is not installed: "
            ".venv/bin/uv pip install pycocotools"
        )


def find(model: nn.Module, examples: Examples, accelerator: Accelerator) -> list[Detections]:
    """Return what is found in each picture, in order, in every process.

    A process looks at every ``num_processes``-th picture, one at a time, so that what it finds
    does not depend on the others.

    Raises:
        ValueError: a file cannot be read.
        RuntimeError: the processes did not look at each picture once.
    """
    mine = range(accelerator.process_index, len(examples), accelerator.num_processes)
    own: list[tuple[int, Detections]] = []
    with evaluating(model), torch.no_grad(), accelerator.autocast():
        for row in mine:
            (answer,) = model([to_tensor(examples.pixels(row), accelerator.device)])
            own.append((row, _to_host(answer)))
    rows = dict(gather_object(own) if accelerator.num_processes > 1 else own)
    if sorted(rows) != list(range(len(examples))):
        raise RuntimeError(f"{len(rows)} of {len(examples)} pictures were looked at")
    return [rows[row] for row in range(len(examples))]


def _to_host(answer: dict[str, Tensor]) -> Detections:
    return Detections(
        answer["boxes"].float().cpu().numpy(),
        answer["labels"].cpu().numpy() - 1,
        answer["scores"].float().cpu().numpy(),
    )


def precision(found: Sequence[Detections], objects: Sequence[Objects]) -> dict[str, float]:
    """Return ``ap`` (mean over overlaps .5 to .95), ``ap50`` and ``ap75``, each 0 to 1.

    COCO's: 101 points of recall, at most 100 boxes a picture, mean over the classes that occur.
    Difficult and crowd objects are COCO's "crowd": neither found nor missed, and what lies inside
    is left out. (VOC 2007's own measure takes 11 points, and leaves out what overlaps one by half.)

    Raises:
        ValueError: pycocotools is not installed, or there is nothing to find.
    """
    check_scorer()
    if not any((~o.difficult & ~o.crowd).any() for o in objects):
        raise ValueError("the pictures to score hold no object, so there is no precision")
    from torchmetrics.detection import MeanAveragePrecision

    # All is gathered already: other processes do not take part, so it must not wait for them.
    metric = MeanAveragePrecision(
        box_format="xyxy", iou_type="bbox", backend="pycocotools", sync_on_compute=False
    )
    metric.update([_answer(f) for f in found], [_truth(o) for o in objects])
    values = metric.compute()
    names = {"ap": "map", "ap50": "map_50", "ap75": "map_75"}
    return {name: float(values[theirs]) for name, theirs in names.items()}


def _answer(found: Detections) -> dict[str, Tensor]:
    return {
        "boxes": torch.from_numpy(found.boxes),
        "labels": torch.from_numpy(found.labels),
        "scores": torch.from_numpy(found.scores),
    }


def _truth(objects: Objects) -> dict[str, Tensor]:
    return {
        "boxes": torch.from_numpy(objects.boxes),
        "labels": torch.from_numpy(objects.labels),
        "iscrowd": torch.from_numpy(objects.difficult | objects.crowd).long(),
    }
