"""Published weights as a baseline: a timm model with its own preprocessing."""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.methods.base import Method
from models.modules.backbone import num_features
from models.modules.initial import load_weights
from models.modules.pretrained import check_weights_exist, fetching
from pipelines.data_facts import DataFacts
from pipelines.settings import Interpolation
from tools.config.init import start_of
from tools.engine.start import read

FILTERS: dict[str, Interpolation] = {"bilinear": "antialias", "bicubic": "bicubic"}
"""PIL's filters, by timm's names for them, as this project's ``--interpolation`` calls them."""


@dataclass(frozen=True)
class Published:
    """A backbone that was trained elsewhere, and the images it takes."""

    method: Method
    facts: DataFacts
    interpolation: Interpolation
    loaded: str | None = None
    """What became of the tensors of ``--init``."""


class Frozen(Method):
    """A backbone without a head, whose features alone are used."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone, nn.Identity())

    def encoders(self) -> list[nn.Module]:
        """Return the backbone."""
        return [self.backbone]


def open_published(
    name: str, *, init: str | None = None, random: bool = False, seed: int = 0
) -> Published:
    """Return the weights that ``--backbone`` names, on the host.

    Args:
        name: ``timm:NAME``, ``timm:NAME.TAG``, ``hf-hub:ORG/NAME``, or a folder in the hub's form;
            with ``init`` or ``random`` also ``NAME``, as ``--backbone`` of train.py.
        init: a file whose weights it gets, as ``--init`` of train.py.
        random: draw the weights from ``seed`` instead.
        seed: of the random weights.

    Raises:
        ValueError: there is no such model, it takes no RGB images, or its weights cannot be read.
    """
    from timm.data import resolve_model_data_config

    try:
        pretrained = not random and init is None
        model = create(timm_name(name, pretrained=pretrained), pretrained=pretrained, seed=seed)
        view: dict[str, Any] = resolve_model_data_config(model)
        facts = facts_of_view(view)
    except ValueError as error:
        raise ValueError(f"--backbone {name}: {error}") from error
    loaded = None
    if init is not None:
        try:
            if start_of(init).kind == "run":
                raise ValueError("a run is scored itself: eval.py knn RUN, without --backbone")
            weights = read(init)
            found = load_weights([model], weights.state, weights.others)
        except ValueError as error:
            raise ValueError(f"--init {init}: {error}") from error
        loaded = f"--init: {found.describe(weights.origin, weights.layout)}"
        if weights.mean and weights.std:  # timm's weights say so, a file does not
            facts = dataclasses.replace(facts, mean=weights.mean, std=weights.std)
    size = facts.image_size
    with torch.no_grad():
        features = model.eval()(torch.zeros(1, 3, size, size))
    if features.shape != (1, num_features(model)):
        shape = tuple(features.shape[1:])
        raise ValueError(f"--backbone {name} makes {shape} of an image, not one feature row")
    return Published(Frozen(model), facts, FILTERS[view["interpolation"]], loaded)


def timm_name(name: str, *, pretrained: bool = True) -> str:
    """Return timm's name of the model that ``--backbone`` names.

    A name alone is an architecture: it is enough where the weights are not timm's.

    Raises:
        ValueError: it has another form.
    """
    if name.startswith("timm:"):
        return name.removeprefix("timm:")
    if name.startswith("hf-hub:"):
        return name
    if (Path(name).expanduser() / "config.json").is_file():
        return f"local-dir:{Path(name).expanduser()}"
    if re.fullmatch(r"\w+", name):
        if not pretrained:
            return name
        raise ValueError(
            f"write timm:{name} for timm's weights, or name others by --init FILE or --random"
        )
    raise ValueError("write timm:NAME, timm:NAME.TAG, hf-hub:ORG/NAME, or a folder of that form")


def create(model: str, *, pretrained: bool, seed: int) -> nn.Module:
    """Return timm's model without a classifier.

    Args:
        model: its name, as timm knows it.
        pretrained: load the published weights; otherwise draw them from ``seed``.
        seed: of the random weights.

    Raises:
        ValueError: timm has no such model or no weights of it, or they cannot be read.
    """
    import timm

    base, _, tag = model.partition(".")
    if ":" not in model:
        if pretrained or (tag and timm.is_model(base)):
            check_weights_exist(model)
        elif not timm.is_model(base):
            near = difflib.get_close_matches(base, timm.list_models(), 5)
            raise ValueError(f"timm has no model {base}; closest: {', '.join(near)}")
    torch.manual_seed(seed)
    hint = "Fetch them where there is a network, or score the untrained network with --random"
    with fetching(model, hint):
        return timm.create_model(model, pretrained=pretrained, num_classes=0)


def facts_of_view(view: Mapping[str, Any]) -> DataFacts:
    """Return the preprocessing that timm publishes for a model.

    Raises:
        ValueError: it takes no RGB squares, or is resized by an unknown filter.
    """
    channels, height, width = view["input_size"]
    if channels != 3 or height != width:
        raise ValueError(f"it takes {channels} x {height} x {width}, not RGB squares")
    if view["interpolation"] not in FILTERS:
        raise ValueError(f"it resizes by {view['interpolation']!r}, not by {' or '.join(FILTERS)}")
    # "squash" takes the whole image, distorted; here it is the largest centred square
    resize = height if view["crop_mode"] == "squash" else int(height / view["crop_pct"])
    return DataFacts(tuple(view["mean"]), tuple(view["std"]), height, resize)
