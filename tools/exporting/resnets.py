"""The ResNets that torchvision and detectron2 share with timm, by timm's names."""

from __future__ import annotations

from dataclasses import dataclass

from tools.exporting.source import Source


@dataclass(frozen=True)
class Plain:
    """The parameters of a ResNet whose stages double in width."""

    depth: int
    groups: int = 1
    """Groups of each 3x3 convolution."""
    group_width: int = 64
    """Channels of a group in the first stage."""


PLAIN = {
    "resnet18": Plain(18),
    "resnet34": Plain(34),
    "resnet50": Plain(50),
    "resnet101": Plain(101),
    "resnet152": Plain(152),
    "wide_resnet50_2": Plain(50, 1, 128),
    "wide_resnet101_2": Plain(101, 1, 128),
    "resnext50_32x4d": Plain(50, 32, 4),
    "resnext101_32x8d": Plain(101, 32, 8),
    "resnext101_64x4d": Plain(101, 64, 4),
}


def check_plain(source: Source, target: str) -> None:
    """Refuse backbones that ``target`` does not have.

    Raises:
        ValueError: the message lists the backbones that it has.
    """
    source.require_one_network(target)
    if source.architecture not in PLAIN:
        raise ValueError(
            f"--to {target}: it has no {source.architecture}, only {', '.join(PLAIN)}; "
            "--to timm, huggingface and onnx take any backbone"
        )
