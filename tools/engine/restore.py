"""A run's method with the weights of a checkpoint, and the choice of its encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.methods import Method
from models.modules.backbone import num_features
from models.settings.base import Which
from pipelines.data_facts import DataFacts
from tools.config.config import ResolvedConfig
from tools.engine import build


def restore(
    config: ResolvedConfig, state: Mapping[str, Any], facts: DataFacts, encoder: Which | None = None
) -> Method:
    """Build a run's method on the host with the weights of a checkpoint.

    To score or export a run, use ``features`` or ``scored_encoder`` of the returned method.

    Args:
        config: the run's settings.
        state: the checkpoint.
        facts: constants of the training images.
        encoder: the encoder to score; None: the one that the method's paper scores.

    Raises:
        ValueError: the weights do not fit, or there is no such encoder; the text has the details.
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
            f"{width} dimensions here: it has {differing[0]} ({len(differing)} such differences). "
            "Was it made with another version of timm?"
        )
    method.load_state_dict(saved)
    if encoder == "momentum" and len(method.encoders()) < 2:
        raise ValueError(
            f"--encoder momentum: --method {config.method} keeps no momentum copy of its encoder; "
            "leave the flag out"
        )
    method.scored = encoder or method.scored
    return method


def with_encoder(text: str, encoder: Which | None) -> str:
    """Append the encoder's name to a text, if one was chosen."""
    return f"{text}, {encoder} encoder" if encoder else text
