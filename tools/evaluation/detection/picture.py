"""Some scored images with the true and the predicted boxes, drawn by torchvision."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.utils import draw_bounding_boxes

from tools.evaluation.detection.dataset import DetectionDataset
from tools.evaluation.detection.scoring import Detections
from tools.plots.fonts import escaped, make_legible

ACROSS, INCHES, DPI = 4, 2.6, 100
MIN_SCORE = 0.3
"""Least score of a predicted box that is drawn; at most ``MOST`` are drawn in an image."""
MOST = 10
LETTERS = frozenset(range(128))
"""Code points that every font of PIL has."""


def draw_detections(
    dataset: DetectionDataset, found: list[Detections], title: str, path: Path, images: int = 8
) -> None:
    """Write the first ``images`` images to ``path``: true boxes white, predicted ones by class."""
    images = min(images, len(dataset))
    down = math.ceil(images / ACROSS)
    figure = Figure(figsize=(ACROSS * INCHES, down * INCHES + 0.8), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    for row in range(images):
        axes = figure.add_subplot(down, ACROSS, row + 1)
        axes.imshow(_with_boxes(dataset, row, found[row]).permute(1, 2, 0).numpy())
        axes.axis("off")
    key = f"white: true boxes; coloured: predicted boxes with score {MIN_SCORE} or more"
    figure.suptitle(f"{title}\n{key}", fontsize=10)
    make_legible(figure)
    figure.savefig(path)


def _with_boxes(dataset: DetectionDataset, row: int, found: Detections) -> Tensor:
    image = dataset.image(row)
    truth = torch.from_numpy(dataset.annotations[row].boxes)
    sure = [i for i in range(len(found.scores)) if found.scores[i] >= MIN_SCORE][:MOST]
    if len(truth):
        image = draw_bounding_boxes(image, truth, colors="white", width=4)
    if sure:
        boxes = torch.from_numpy(found.boxes[sure])
        names = [escaped(dataset.classes[found.labels[i]], LETTERS) for i in sure]
        texts = [f"{name} {found.scores[i]:.2f}" for name, i in zip(names, sure, strict=True)]
        colors = [to_hex(f"C{found.labels[i] % 10}") for i in sure]
        image = draw_bounding_boxes(
            image,
            boxes,
            texts,
            colors=colors,
            width=2,
            label_colors="white",
            label_background_colors=colors,
            fill_labels=True,
        )
    return image
