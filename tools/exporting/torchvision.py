"""A file of weights for torchvision's ResNets, whose parameter names are the same as timm's."""

from __future__ import annotations

from pathlib import Path

import torch

from tools.exporting.resnets import check_plain
from tools.exporting.source import Source
from tools.exporting.timm import stem_notes
from tools.exporting.verify import largest_difference, quoted, run_example

SUFFIXES = (".pth",)


def check(source: Source) -> None:
    """Refuse backbones for which torchvision has no model.

    Raises:
        ValueError: it has none.
    """
    check_plain(source, "torchvision")


def write(source: Source, path: Path) -> list[str]:
    """Write the weights; return notes for the user."""
    torch.save(source.state(), path)
    return [*stem_notes(source), "There is no classifier: `fc` is removed before loading."]


def stem_lines(source: Source) -> list[str]:
    """Return the code that gives torchvision's ``model`` this encoder's first layers.

    torchvision has no option for the channels of the images, so the first layer is replaced.
    """
    lines = source.stem_lines()
    if source.channels == 3 or any("conv1 =" in line for line in lines):
        return lines
    width = source.state()["conv1.weight"].shape[0]
    first = f"{source.channels}, {width}, 7, stride=2, padding=3, bias=False"
    return [f"model.conv1 = torch.nn.Conv2d({first})", *lines]


def example(source: Source, path: Path) -> str:
    """Return code that computes ``features`` of ``images``."""
    lines = (
        "import torch",
        "import torchvision",
        "",
        f"model = torchvision.models.{source.architecture}()",
        *stem_lines(source),
        "model.fc = torch.nn.Identity()",
        f"model.load_state_dict(torch.load({quoted(path)}, weights_only=True))",
        "features = model.eval()(images)",
    )
    return "\n".join(lines)


def verify(source: Source, path: Path) -> float:
    """Return the largest difference of features after torchvision's model has the weights."""
    return largest_difference(source, run_example(example(source, path)))
