"""A pickle of weights for detectron2's ResNets, by the key mapping of MoCo's converter.

He 2020, 1911.05722 (the released converter). detectron2 is not on a package registry. So the file
is verified by reading it back through the mapping, and the names by a table in the tests.
"""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tools.exporting.resnets import PLAIN, check_plain
from tools.exporting.source import Source
from tools.exporting.verify import largest_difference

SUFFIXES = (".pkl",)


def check(source: Source) -> None:
    """Refuse backbones for which detectron2 has no model.

    Raises:
        ValueError: it has none, or only one with another stem.
    """
    source.require_rgb("detectron2")
    check_plain(source, "detectron2")
    if source.stem_lines():
        raise ValueError(
            "--to detectron2: detectron2's first layer is a 7x7 convolution at stride 2 with "
            "pooling, and this run's keeps the resolution of small images; train with --stem "
            "standard"
        )


def name_in_detectron2(name: str) -> str:
    """Return detectron2's name of a parameter or buffer of timm's or torchvision's ResNet.

    conv1 -> stem.conv1, layerN -> res(N+1), bnN -> convN.norm, downsample.0 and .1 -> shortcut and
    shortcut.norm.
    """
    if not name.startswith("layer"):
        name = f"stem.{name}"
    name = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
    name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
    return name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def write(source: Source, path: Path) -> list[str]:
    """Write arrays by detectron2's names; return notes for the user."""
    model = {name_in_detectron2(name): value.numpy() for name, value in source.state().items()}
    with path.open("wb") as file:
        pickle.dump({"model": model, "__author__": "unmix", "matching_heuristics": True}, file)
    return [
        "The file was verified by reading it back, without detectron2. Pixels are RGB and in 0 to "
        "255, as in the settings below."
    ]


def settings(source: Source, path: Path) -> dict[str, Any]:
    """Return detectron2's settings for the weights."""
    plain = PLAIN[source.architecture]
    resnets: dict[str, Any] = {
        "DEPTH": plain.depth,
        "STRIDE_IN_1X1": False,
        "NUM_GROUPS": plain.groups,
        "WIDTH_PER_GROUP": plain.group_width,
        "NORM": "SyncBN",
    }
    if plain.depth < 50:
        resnets["RES2_OUT_CHANNELS"] = 64
    return {
        "INPUT": {"FORMAT": "RGB"},
        "MODEL": {
            "WEIGHTS": str(path),
            "PIXEL_MEAN": [round(255 * x, 3) for x in source.facts.mean],
            "PIXEL_STD": [round(255 * x, 3) for x in source.facts.std],
            "BACKBONE": {"FREEZE_AT": 0},
            "RESNETS": resnets,
        },
    }


def example(source: Source, path: Path) -> str:
    """Return the settings as YAML."""
    return yaml.safe_dump(settings(source, path), sort_keys=False, default_flow_style=None).strip()


def verify(source: Source, path: Path) -> float:
    """Return the largest difference of features after reading the weights back."""
    with path.open("rb") as file:
        arrays = pickle.load(file)["model"]
    state = {
        name: torch.from_numpy(arrays.pop(name_in_detectron2(name))) for name in source.state()
    }
    if arrays:
        raise ValueError(f"the file holds what the encoder does not: {', '.join(arrays)}")
    encoder = copy.deepcopy(source.encoder)
    encoder.load_state_dict(state)

    def encode(images: Tensor) -> Tensor:
        return encoder(images)

    return largest_difference(source, encode)
