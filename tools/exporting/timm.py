"""A file of weights for ``timm.create_model``."""

from __future__ import annotations

from pathlib import Path

import torch

from tools.exporting.source import Source
from tools.exporting.verify import largest_difference, quoted, run_example

SUFFIXES = (".pth", ".safetensors")


def check(source: Source) -> None:
    """Refuse backbones for which timm has no model.

    Raises:
        ValueError: the encoder is a pair of networks.
    """
    source.require_one_network("timm")


def write(source: Source, path: Path) -> list[str]:
    """Write the weights by timm's names; return notes for the user."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save

        path.write_bytes(save(source.state(), {"format": "pt"}))
    else:
        torch.save(source.state(), path)
    return stem_notes(source)


def example(source: Source, path: Path) -> str:
    """Return code that computes ``features`` of ``images``."""
    return code(source, quoted(path))


def code(source: Source, weights: str) -> str:
    """Return the same code for weights whose path is the Python expression ``weights``."""
    options = "".join(f", {name}={value!r}" for name, value in source.options.items())
    stem = source.stem_lines()
    if not stem:
        create = f'"{source.architecture}"{options}, checkpoint_path={weights}'
        return (
            f"import timm\n\nmodel = timm.create_model({create})\nfeatures = model.eval()(images)"
        )
    lines = (
        "import timm",
        "import torch",
        "",
        f'model = timm.create_model("{source.architecture}"{options})',
        *stem,
        f"timm.models.load_checkpoint(model, {weights})",
        "features = model.eval()(images)",
    )
    return "\n".join(lines)


def verify(source: Source, path: Path) -> float:
    """Return the largest difference of features after timm has loaded the file."""
    return largest_difference(source, run_example(example(source, path)))


def stem_notes(source: Source) -> list[str]:
    """Return notes on the differences from timm's model of the same name."""
    lines = source.stem_lines()
    if not lines:
        return []
    those = "these lines make" if len(lines) > 1 else "this line makes"
    return [
        f"This is not a stock {source.architecture}: it keeps the resolution of small images in "
        f"its first layers. Before the weights are loaded {those} the difference:\n\n"
        + "\n".join(f"    {line}" for line in lines)
    ]
