"""The backbone that a detector starts from: a run's, timm's supervised one, or an untrained one."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import ResNet
from torch import nn

from models.modules.backbone import create_backbone
from models.settings.base import Which
from tools.config.pixels import facts_of
from tools.engine import build
from tools.engine.restore import restore, with_encoder
from tools.evaluation.detection.detector import check_backbone

IMAGE_SIZE = 224
"""Image size in pixels of a backbone without a run, which has the standard stem."""


@dataclass(frozen=True)
class Backbone:
    """A ResNet, where its weights come from, and how its images are normalized."""

    model: ResNet
    name: str
    """timm's name of the backbone."""
    origin: str
    """``random``, ``supervised`` or the run's folder."""
    step: int | None
    """Step of the run's checkpoint."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encoder: Which | None = None
    """The run's encoder that is used, if there are two."""

    @property
    def has_small_stem(self) -> bool:
        """Whether its stem keeps the resolution, as for small images."""
        return isinstance(self.model.maxpool, nn.Identity)

    @property
    def description(self) -> str:
        """The weights in words."""
        if self.step is not None:
            return with_encoder(f"{self.origin} at step {self.step:,}", self.encoder)
        return f"{self.origin} weights, {self.name}"


def open_backbone(
    run: Path | None,
    weights: str | None,
    checkpoint: Path | None,
    name: str,
    seed: int,
    encoder: Which | None = None,
) -> Backbone:
    """Return the backbone that the flags ``--run``, ``--weights`` and so on name, on the host.

    For ``random`` and a run, this is the run's network before its first step, drawn from ``seed``.

    Raises:
        ValueError: the run, checkpoint or weights do not exist, or the backbone is not a ResNet.
    """
    torch.manual_seed(seed)
    if run is None:
        model: nn.Module = create_backbone(name, IMAGE_SIZE, "standard", zero_init_last=False)
        check_backbone(model, name)
        if weights == "supervised":
            model = supervised(name)
        return Backbone(
            check_backbone(model, name), name, str(weights), None, *normalization(model)
        )
    config, state = build.load_run(run, checkpoint)
    if config.in_chans != 3:
        raise ValueError(
            f"{run} has --in-chans {config.in_chans}, and the pictures of detection are RGB: "
            "eval.py knn, linear, semi and finetune score such a run"
        )
    facts, name = facts_of(config), config.backbone
    method = restore(config, state, facts, encoder)
    scored = method.scored_encoder.requires_grad_(True)  # a momentum copy has it off
    trained = check_backbone(scored, f"{run} ({config.method} on {name})")
    if weights == "supervised":
        model = check_backbone(supervised(name), name)
        return Backbone(model, name, weights, None, *normalization(model))
    if weights == "random":
        untrained = dataclasses.replace(config, seed=seed)
        fresh = build.create_method(untrained, 1, facts, state["data"]["images"])
        model = check_backbone(fresh.backbone, name)
        return Backbone(model, name, weights, None, facts.mean, facts.std)
    step, which = state["step"], method.named_encoder
    return Backbone(trained, name, str(run), step, facts.mean, facts.std, which)


def supervised(name: str) -> nn.Module:
    """Return timm's model with its published weights.

    Raises:
        ValueError: timm has no weights for it, or they cannot be downloaded.
    """
    if not timm.is_model_pretrained(name):
        raise ValueError(f"--weights supervised: timm has none for {name}; resnet50 has some")
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # the hub's client raises its own kinds, requests' and OSError
        raise ValueError(
            f"--weights supervised: timm could not download {name} "
            f"({type(error).__name__}: {str(error).splitlines()[0]}). Without a connection, copy "
            "another machine's Hugging Face cache and name it by HF_HOME"
        ) from error


def normalization(model: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation by which a timm model's images are normalized."""
    config = getattr(model, "pretrained_cfg", None) or {}
    return (
        tuple(config.get("mean", IMAGENET_DEFAULT_MEAN)),
        tuple(config.get("std", IMAGENET_DEFAULT_STD)),
    )
