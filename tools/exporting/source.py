"""The encoder to export, and the facts about its run."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

from models.methods.cmc import Halves
from models.modules.backbone import num_features, size_options
from models.modules.own_modules import OwnBackbone
from models.settings.backbones import OWN
from models.settings.base import Which
from pipelines.data_facts import DataFacts
from pipelines.data_spec import split_sum
from pipelines.remote.url import is_remote
from tools.config.config import Config
from tools.config.init import arguments
from tools.config.pixels import facts_of
from tools.engine import build
from tools.engine.restore import restore


@dataclass(frozen=True)
class Source:
    """An encoder on the host, in eval mode and float32, and its run."""

    encoder: nn.Module
    """Maps normalized images (n, channels, h, w) to features (n, d)."""
    which: Which
    config: Config
    facts: DataFacts
    step: int
    num_images: int
    """Number of training images."""
    paper: str
    """The method's name, then author, year and arXiv number."""

    @property
    def architecture(self) -> str:
        """Name of the backbone in timm without a tag of weights, or of a class of one's own."""
        own = OWN.fullmatch(self.config.backbone)
        return own[2] if own else self.config.backbone.partition(".")[0]

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return self.config.in_chans

    @property
    def color(self) -> str:
        """What the channels are, in a word."""
        return {1: "gray", 3: "RGB"}.get(self.channels, f"{self.channels}-band")

    @property
    def size(self) -> int:
        """Side of the training images in pixels."""
        assert self.config.image_size
        return self.config.image_size

    @property
    def resize(self) -> int:
        """Length to which ``eval.py`` resizes an image's shorter side before the center crop."""
        whole = self.facts.eval_resize or self.facts.image_size
        return round(self.size * whole / self.facts.image_size)

    @property
    def dim(self) -> int:
        """Length of a feature row."""
        return num_features(self.encoder)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of ``timm.create_model``."""
        options = {
            "num_classes": 0,
            **size_options(self.config.backbone, self.size),
            **arguments(self.config.backbone_args),
        }
        return options if self.channels == 3 else options | {"in_chans": self.channels}

    @property
    def epochs(self) -> float:
        """Number of finished epochs."""
        return self.step / (self.num_images // self.config.batch_size)

    def images(self, count: int, side: int | None = None) -> Tensor:
        """Return fixed random images (count, channels, side, side), to compare outputs on."""
        generator = torch.Generator().manual_seed(count)
        side = side or self.size
        return torch.randn(count, self.channels, side, side, generator=generator)

    def state(self) -> dict[str, Tensor]:
        """Return the encoder's parameters and buffers."""
        return {name: value.contiguous() for name, value in self.encoder.state_dict().items()}

    def stem_lines(self) -> list[str]:
        """Return the code that gives a stock ResNet ``model`` this encoder's small-image stem."""
        if not isinstance(self.encoder, ResNet):
            return []
        lines, first = [], self.encoder.conv1
        if isinstance(first, nn.Sequential):
            if first.get_submodule("0").stride == (1, 1):
                lines.append("model.conv1[0].stride = (1, 1)")
        elif first.stride == (1, 1):
            channels = f"{first.in_channels}, {first.out_channels}"
            lines.append(f"model.conv1 = torch.nn.Conv2d({channels}, 3, padding=1, bias=False)")
        if isinstance(self.encoder.maxpool, nn.Identity):
            lines.append("model.maxpool = torch.nn.Identity()")
        return lines

    def doubts(self) -> list[str]:
        """Return notes on uncertain facts about the run's images, a sentence each."""
        specs = split_sum(self.config.data)
        files = [Path(one) for one in specs if one.endswith(".beton") and not is_remote(one)]
        missing = [file.name for file in files if not file.expanduser().is_file()]
        if not missing or self.config.mean:
            return []
        return [
            f"{missing[0]}, which records how its images are normalised, was not found: the mean "
            "and deviation are ImageNet's, which is wrong if it was made from a named data set."
        ]

    def require_rgb(self, target: str) -> None:
        """Refuse other images than RGB for tools whose models take no others.

        Raises:
            ValueError: naming tools that take any.
        """
        if self.channels != 3:
            raise ValueError(
                f"--to {target}: its models take RGB images, and this run has --in-chans "
                f"{self.channels}; --to timm, torchvision, huggingface and onnx take any number"
            )

    def require_one_network(self, target: str) -> None:
        """Refuse CMC's pair of networks, and modules of one's own, for tools that build the model.

        Raises:
            ValueError: the encoder is one of these; the message names an alternative.
        """
        if isinstance(self.encoder, OwnBackbone):
            raise ValueError(
                f"--to {target}: {self.config.backbone} is a module of your own, which no {target} "
                "model is; --to onnx exports it as a graph"
            )
        if isinstance(self.encoder, Halves):
            raise ValueError(
                f"--to {target}: CMC trains two networks of {self.config.chosen.width:g} times the "
                f"width, on one and two channels of {self.config.chosen.space}; no {target} model "
                "has this form. --to onnx exports both, with the colour conversion, as one graph"
            )


def load(run: Path, checkpoint: Path | None, which: Which | None) -> Source:
    """Return an encoder of a checkpoint (None: the run's last; ``which`` None: the scored one).

    Raises:
        ValueError: there is no such run or checkpoint, or the method has no such encoder.
    """
    config, state = build.load_run(run, checkpoint)
    facts = facts_of(config)
    num_images = state["data"]["images"]
    method = restore(config, state, facts, which)
    encoder = method.scored_encoder.eval().requires_grad_(False)
    module = inspect.getmodule(type(method))
    assert module and module.__doc__
    paper = module.__doc__.splitlines()[0]
    return Source(encoder, method.scored, config, facts, state["step"], num_images, paper)
