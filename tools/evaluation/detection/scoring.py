"""Detect the objects of a whole split, and score the boxes by mean average precision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import nn

from tools.evaluation.detection.dataset import Annotations, DetectionDataset
from tools.evaluation.detection.training import to_float
from tools.scoring.features import evaluating


@dataclass(frozen=True, slots=True)
class Detections:
    """The predicted boxes of one image, the highest score first."""

    boxes: NDArray[np.float32]
    """(n, 4): left, top, right, bottom in the image's pixels."""
    labels: NDArray[np.int64]
    """(n,), from 0."""
    scores: NDArray[np.float32]


def check_scorer() -> None:
    """Check that detections can be scored, before any training.

    Raises:
        ValueError: pycocotools is not installed.
    """
    if find_spec("pycocotools") is None:
        raise ValueError(
            "detection is scored by pycocotools, which is not installed: "
            ".venv/bin/uv pip install pycocotools"
        )


def detect(
    model: nn.Module, dataset: DetectionDataset, accelerator: Accelerator
) -> list[Detections]:
    """Return the predicted boxes of each image, in order, in every process.

    A process takes every ``num_processes``-th image, one at a time, so that the result does not
    depend on the number of processes.

    Raises:
        ValueError: a file cannot be read.
        RuntimeError: the processes did not cover each image once.
    """
    own: list[tuple[int, Detections]] = []
    with evaluating(model), torch.no_grad(), accelerator.autocast():
        for row in range(accelerator.process_index, len(dataset), accelerator.num_processes):
            (found,) = model([to_float(dataset.image(row), accelerator.device)])
            boxes, scores = found["boxes"].float(), found["scores"].float()
            labels = found["labels"] - 1
            own.append((row, Detections(*(x.cpu().numpy() for x in (boxes, labels, scores)))))
    rows = dict(gather_object(own) if accelerator.num_processes > 1 else own)
    if sorted(rows) != list(range(len(dataset))):
        raise RuntimeError(f"{len(rows)} of {len(dataset)} images were covered")
    return [rows[row] for row in range(len(dataset))]


def average_precision(
    found: Sequence[Detections], truth: Sequence[Annotations]
) -> dict[str, float]:
    """Return ``ap`` (mean over IoU thresholds .5 to .95), ``ap50`` and ``ap75``, each in [0, 1].

    The measure is COCO's: 101 recall points, at most 100 boxes an image, and the mean over the
    classes that occur. Difficult and crowd objects count as COCO's "crowd": neither found nor
    missed, and detections inside them are ignored. (VOC 2007's own measure has 11 recall points
    and ignores detections that overlap a difficult object by half.)

    Raises:
        ValueError: pycocotools is not installed, or the images hold no object.
    """
    check_scorer()
    if not any((~t.difficult & ~t.crowd).any() for t in truth):
        raise ValueError("the images to score hold no object, so there is no precision")
    from pycocotools.cocoeval import COCOeval

    every: list[Annotations | Detections] = [*found, *truth]
    classes = range(1 + max(int(x.labels.max(initial=0)) for x in every))
    with redirect_stdout(None):
        scorer = COCOeval(
            _coco(truth, "iscrowd", [(t.difficult | t.crowd).astype(int) for t in truth], classes),
            _coco(found, "score", [f.scores for f in found], classes),
            iouType="bbox",
        )
        scorer.evaluate()
        scorer.accumulate()
        scorer.summarize()
    return dict(zip(("ap", "ap50", "ap75"), map(float, scorer.stats), strict=False))


def _coco(
    images: Sequence[Annotations | Detections],
    name: str,
    values: Sequence[NDArray[Any]],
    classes: Sequence[int],
) -> Any:
    """Return boxes in pycocotools' form, each with one more value."""
    from pycocotools.coco import COCO

    rows = [
        {"image_id": number, "category_id": int(label), "iscrowd": 0, name: value.item()}
        | {"bbox": [*box[:2], *(box[2:] - box[:2])], "area": float(np.prod(box[2:] - box[:2]))}
        for number, (image, of_image) in enumerate(zip(images, values, strict=True))
        for box, label, value in zip(image.boxes.astype(float), image.labels, of_image, strict=True)
    ]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": number} for number in range(len(images))],
        "categories": [{"id": number} for number in classes],
        "annotations": [row | {"id": number} for number, row in enumerate(rows, 1)],
    }
    coco.createIndex()
    return coco
