"""The first weights of a run: ``--init`` read, loaded into the backbone, and described."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from models.methods import Method
from models.modules.initial import load_weights
from models.modules.layouts import LAYOUTS, find_encoder
from models.modules.pretrained import load_pretrained, read_file
from pipelines.data_facts import DataFacts
from tools.config.config import ResolvedConfig
from tools.config.init import start_of
from tools.config.pixels import facts_of
from tools.engine import build
from tools.engine.restore import restore


@dataclass(frozen=True)
class Weights:
    """Tensors to start from."""

    origin: str
    """Where they are from, in words."""
    layout: str
    state: Mapping[str, Tensor]
    others: Sequence[str] = ()
    """Names of further tensors in the file."""
    mean: tuple[float, ...] | None = None
    """Mean by which their images were normalized; None: unknown."""
    std: tuple[float, ...] | None = None


def load_init(config: ResolvedConfig, method: Method, facts: DataFacts) -> list[str]:
    """Load the weights of ``--init`` into the method's backbone and its momentum copy.

    Args:
        config: the run's settings.
        method: the method, whose head keeps its random weights.
        facts: constants of the training images.

    Returns:
        Lines on what was loaded, and on what differs from how the weights were trained.

    Raises:
        ValueError: there are no such weights, or they do not fit.
    """
    if config.init is None:
        return []
    try:
        weights = read(config.init)
        loaded = load_weights(method.encoders(), weights.state, weights.others)
    except ValueError as error:
        raise ValueError(f"--init {config.init}: {error}") from error
    lines = [f"--init: {loaded.describe(weights.origin, weights.layout)}"]
    mean, std = weights.mean, weights.std
    if mean is not None and std is not None and (mean, std) != (facts.mean, facts.std):
        lines.append(
            f"--init: these weights were trained on images normalized by mean {_numbers(mean)} and "
            f"std {_numbers(std)}; this run normalizes by mean {_numbers(facts.mean)} and std "
            f"{_numbers(facts.std)} (--mean {_numbers(mean)} --std {_numbers(std)} takes theirs)"
        )
    return lines


def read(init: str) -> Weights:
    """Read the weights that ``--init`` names.

    Raises:
        ValueError: there are none, or the file has no known layout.
    """
    start = start_of(init)
    if start.kind in ("timm", "hub"):
        found = load_pretrained(start.name)
        return Weights(found.name, "timm", found.state, (), found.mean, found.std)
    if start.kind == "run":
        return _of_run(Path(start.name))
    return _of_file(Path(start.name))


def _of_run(path: Path) -> Weights:
    """Return the weights of the encoder that the run's method scores."""
    config, state = build.load_run(path)
    facts = facts_of(config)
    method = restore(config, state, facts)
    origin = f"{path}, step {state['step']:,}"
    if method.named_encoder is not None:
        origin += f", {method.scored} encoder"
    return Weights(origin, "unmix", method.scored_encoder.state_dict(), (), facts.mean, facts.std)


def _of_file(path: Path) -> Weights:
    content = read_file(path)
    if "method" in content and "config" in content:  # a checkpoint of ours, away from its run
        return _of_run(path)
    found = find_encoder(content)
    if found.layout is None:
        known = ", ".join(sorted({layout.name for layout in LAYOUTS}))
        keys = ", ".join(str(key) for key in list(content)[:5])
        raise ValueError(f"no tensors in a known layout ({known}); its keys are {keys or 'none'}")
    return Weights(str(path), found.layout.name, found.state, found.others)


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
