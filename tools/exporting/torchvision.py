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


def example(source: Source, path: Path) -> str:
    """Return code that computes ``features`` of ``images``."""
    lines = (
        "import torch",
        "import torchvision",
        "",
        f"model = torchvision.models.{source.architecture}()",
        *source.stem_lines(),
        "model.fc = torch.nn.Identity()",
        f"model.load_state_dict(torch.load({quoted(path)}, weights_only=True))",
        "features = model.eval()(images)",
    )
    return "\n".join(lines)


def verify(source: Source, path: Path) -> float:
    """Return the largest difference of features after torchvision's model has the weights."""
    return largest_difference(source, run_example(example(source, path)))
