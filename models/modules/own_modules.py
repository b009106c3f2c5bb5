"""Backbones of one's own, ``file.py:Class``: any module from images to rows of features."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from models.modules.shapes import output_shape, refuse_sides
from models.settings.backbones import OWN


def is_own(name: str) -> bool:
    """Return whether a backbone's name is that of a class in a file.

    >>> is_own("encoders/mine.py:Encoder"), is_own("resnet18")
    (True, False)
    """
    return OWN.fullmatch(name) is not None


class OwnBackbone(nn.Module):
    """A module of one's own, and the length of its features."""

    def __init__(self, model: nn.Module, num_features: int) -> None:
        super().__init__()
        self.model = model
        self.num_features = num_features

    def forward(self, images: Tensor) -> Tensor:
        """Return the features (n, num_features) of images (n, c, h, w)."""
        features: Tensor = self.model(images)
        return features


def create(name: str, side: int, channels: int, arguments: Mapping[str, Any]) -> OwnBackbone:
    """Build the class that ``file.py:Class`` names, and find the length of its features.

    Args:
        name: the file and the class in it; a function that returns a module serves as well.
        side: of the images in pixels, for the trial.
        channels: of the images; the constructor is called with it if it takes ``in_chans``.
        arguments: further arguments of the constructor.

    Raises:
        ValueError: the file, the class, or its features are not what a backbone needs.
    """
    found = OWN.fullmatch(name)
    assert found is not None
    path = Path(found[1]).expanduser()
    kind = getattr(_imported(name, path), found[2], None)
    if not callable(kind):
        raise ValueError(f"--backbone {name}: {path} has no class {found[2]}")
    options = dict(arguments)
    if "in_chans" in inspect.signature(kind).parameters:
        options["in_chans"] = channels
    try:
        model = kind(**options)
    except Exception as error:
        raise ValueError(f"--backbone {name} cannot be built: {error}") from error
    if not isinstance(model, nn.Module):
        raise ValueError(f"--backbone {name} makes a {type(model).__name__}, not a torch.nn.Module")
    refuse_sides(model, name, channels, {side: f"--image-size {side}"})
    shape = output_shape(model, channels, side)
    assert isinstance(shape, torch.Size)
    return OwnBackbone(model, shape[1])


def _imported(name: str, path: Path) -> ModuleType:
    """Return the module in a file, which may import what lies in its folder.

    Raises:
        ValueError: it cannot be imported.
    """
    if not path.is_file():
        raise ValueError(f"--backbone {name}: there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"own_backbone_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # as importing does, for dataclasses and copies
    folder = str(path.resolve().parent)
    sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(
            f"--backbone {name}: {path} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(folder)
    return module
