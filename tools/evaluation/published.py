"""Published weights as a baseline: a timm model with its own preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import nn

from models.methods.base import Method
from models.modules.backbone import num_features
from pipelines.datasets import DataFacts
from pipelines.settings import Interpolation

SCHEMES = ("timm:", "hf-hub:")
FILTERS: dict[str, Interpolation] = {"bilinear": "antialias", "bicubic": "bicubic"}
"""PIL's filters, by timm's names for them, as this project's ``--interpolation`` calls them."""
assert {*FILTERS.values()} <= {*get_args(Interpolation)}


@dataclass(frozen=True)
class Published:
    """A backbone that was trained elsewhere, and the images it takes."""

    method: Method
    facts: DataFacts
    interpolation: Interpolation


class Frozen(Method):
    """A backbone without a head, whose features alone are used."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone, nn.Identity())

    def encoders(self) -> list[nn.Module]:
        """Return the backbone."""
        return [self.backbone]


def open_published(name: str, *, random: bool = False, seed: int = 0) -> Published:
    """Return the weights that ``--backbone`` names, on the host.

    Args:
        name: ``timm:NAME``, ``timm:NAME.TAG`` or ``hf-hub:ORG/NAME``.
        random: draw the weights from ``seed`` instead.
        seed: of the random weights.

    Raises:
        ValueError: there is no such model, it takes no RGB images, or its weights cannot be read.
    """
    scheme = next((s for s in SCHEMES if name.startswith(s)), None)
    if scheme is None:
        raise ValueError(f"--backbone {name}: write timm:NAME, timm:NAME.TAG or hf-hub:ORG/NAME")
    model = create(name if scheme == "hf-hub:" else name.removeprefix(scheme), name, random, seed)
    from timm.data import resolve_model_data_config

    view: dict[str, Any] = resolve_model_data_config(model)
    channels, height, width = view["input_size"]
    if channels != 3 or height != width:
        raise ValueError(
            f"--backbone {name} takes {channels} x {height} x {width}, not RGB squares"
        )
    known = FILTERS.get(view["interpolation"])
    if known is None:
        raise ValueError(
            f"--backbone {name} resizes by {view['interpolation']!r}, which is not one of "
            + ", ".join(FILTERS)
        )
    resize = height if view["crop_mode"] == "squash" else int(height / view["crop_pct"])
    facts = DataFacts(tuple(view["mean"]), tuple(view["std"]), height, resize)
    with torch.no_grad():
        features = model.eval()(torch.zeros(1, 3, height, width))
    if features.shape != (1, num_features(model)):
        raise ValueError(
            f"--backbone {name} makes {tuple(features.shape[1:])} of an image, not one feature row"
        )
    return Published(Frozen(model), facts, known)


def create(model: str, named: str, random: bool, seed: int) -> nn.Module:
    """Return timm's model without a classifier.

    Args:
        model: its name, as timm knows it.
        named: its name, as the user wrote it.
        random: draw the weights from ``seed`` instead of loading the published ones.
        seed: of the random weights.

    Raises:
        ValueError: timm has no such model or no weights of it, or they cannot be read.
    """
    import timm

    if not model.startswith("hf-hub:"):
        check_known(model, named, random)
    torch.manual_seed(seed)
    try:
        return timm.create_model(model, pretrained=not random, num_classes=0)
    except Exception as error:  # the hub's client raises its own kinds, requests' and OSError
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(
            f"--backbone {named}: the weights could not be loaded ({type(error).__name__}: "
            f"{reason}). Without a connection, copy another machine's Hugging Face cache and name "
            "it by HF_HOME, or score the untrained network with --random"
        ) from error


def check_known(model: str, named: str, random: bool) -> None:
    """Refuse a model that timm does not have, or has no weights of; name the nearest.

    Raises:
        ValueError: there is no such model or no such weights.
    """
    import difflib

    import timm

    base, _, tag = model.partition(".")
    if not timm.is_model(base):
        near = difflib.get_close_matches(base, timm.list_models(), 3)
        raise ValueError(f"--backbone {named}: timm has no {base}; closest: {', '.join(near)}")
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
    if tag and tag not in tags:
        raise ValueError(f"--backbone {named}: {base} has the weights {', '.join(tags) or 'none'}")
    if not random and not timm.is_model_pretrained(model):
        raise ValueError(f"--backbone {named}: timm has no weights of {base}; --random draws some")
