"""A run's method with the weights of a checkpoint, and which of its encoders is scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.methods import Method
from models.methods.base import Which
from models.modules.backbone import num_features
from pipelines.datasets import DataFacts
from tools.config.config import ResolvedConfig
from tools.engine import build


def restore(
    config: ResolvedConfig, state: Mapping[str, Any], facts: DataFacts, encoder: Which | None = None
) -> Method:
    """Build a run's method on the host with the weights of a checkpoint.

    Whatever scores or exports a run takes ``features`` or ``scored_encoder`` of what this returns.

    Args:
        config: the run's settings.
        state: the checkpoint.
        facts: those of the images it was trained on.
        encoder: which one is scored; None: the one that the method's paper scores.

    Raises:
        ValueError: the weights do not fit, or there is no such encoder; the text says how.
    """
    method = build.create_method(config, 1, facts, state["data"]["images"])
    own, saved = method.state_dict(), state["method"]
    differing = [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in saved and saved[name].shape != own[name].shape
    ]
    differing += [f"no {name}" for name in own if name not in saved]
    differing += [f"an unknown {name}" for name in saved if name not in own]
    if differing:
        width = num_features(method.backbone)
        raise ValueError(
            f"the checkpoint does not fit --backbone {config.backbone}, whose features have "
            f"{width} numbers here: it has {differing[0]} ({len(differing)} such differences). "
            "Was it made with another version of timm?"
        )
    method.load_state_dict(saved)
    if encoder == "momentum" and len(method.encoders()) < 2:
        raise ValueError(
            f"--encoder momentum: --method {config.method} keeps no momentum copy of its encoder; "
            "leave it out"
        )
    method.scored = encoder or method.scored
    return method


def with_encoder(text: str, encoder: Which | None) -> str:
    """Add the encoder's name to a text for people, where there are two."""
    return f"{text}, {encoder} encoder" if encoder else text
