"""Faster R-CNN on a timm ResNet, built from torchvision's parts. Ren 2015, arXiv:1506.01497.

``c4``: the stages up to res4 give the features; res5 and one more batch norm are the head of each
region (He 2020, arXiv:1911.05722, appendix). ``fpn``: all four stages feed a feature pyramid
(Lin 2017, arXiv:1612.03144), and two linear layers are the head. No layer is frozen, and every
batch norm is synchronized over the processes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from models.modules.batchnorm import convert_batchnorm

Detector = Literal["c4", "fpn"]

ANCHOR_SIDES = (32, 64, 128, 256, 512)
"""Sizes in pixels; C4 uses all of them at each location, FPN one at each level."""
ASPECTS = (0.5, 1.0, 2.0)
PYRAMID_CHANNELS = 256
HIDDEN = 1024
"""Units of each linear layer in FPN's head."""


@dataclass(frozen=True)
class Sizes:
    """Image sizes in pixels, and the number of regions an image for the head."""

    short_sides: tuple[int, ...]
    """Lengths of an image's shorter side: training draws one, testing uses the last."""
    regions: int = 512
    """Regions of an image that the head is trained on."""
    proposals: int = 1000
    """Regions of an image that the head classifies in testing."""
    longest: int = 1333
    grid: int = 14
    """Side of the grid that a region is pooled to for C4's head; FPN's is 7."""


def stem_to_res4(backbone: ResNet) -> nn.Sequential:
    """Return the stem and the first three stages, under timm's names."""
    names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3")
    stages = nn.Sequential(OrderedDict((name, backbone.get_submodule(name)) for name in names))
    setattr(stages, "out_channels", channels(backbone, 3))  # noqa: B010 (torchvision reads it)
    return stages


def pyramid(backbone: ResNet) -> BackboneWithFPN:
    """Return all four stages and the pyramid over them."""
    return BackboneWithFPN(
        backbone,
        {f"layer{stage}": str(stage - 1) for stage in (1, 2, 3, 4)},
        [channels(backbone, stage) for stage in (1, 2, 3, 4)],
        PYRAMID_CHANNELS,
        norm_layer=nn.BatchNorm2d,
    )


class Res5(nn.Module):
    """The ResNet's last stage and one more batch norm, applied to each region."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.layer4 = backbone.get_submodule("layer4")
        self.norm = nn.BatchNorm2d(channels(backbone, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Map pooled regions (regions, c, grid, grid) to features (regions, d)."""
        return self.norm(self.layer4(x)).mean((2, 3))


def channels(backbone: ResNet, stage: int) -> int:
    """Return the number of output channels of a stage, 1 to 4."""
    stages: list[dict[str, Any]] = list(backbone.feature_info)
    return stages[stage]["num_chs"]


def check_backbone(backbone: nn.Module, name: str) -> ResNet:
    """Return the backbone if it is a ResNet with four stages over RGB images.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(backbone, ResNet):
        raise ValueError(
            f"detection needs the four stages of a ResNet (resnet18, resnet50, resnext50_32x4d, "
            f"...); {name} has none"
        )
    first = next(m for m in backbone.conv1.modules() if isinstance(m, nn.Conv2d))
    if first.in_channels != 3:
        raise ValueError(f"detection needs a ResNet over RGB; {name} takes {first.in_channels}")
    return backbone


def build_detector(
    backbone: ResNet,
    kind: Detector,
    num_classes: int,
    sizes: Sizes,
    mean: Sequence[float],
    std: Sequence[float],
) -> FasterRCNN:
    """Return a detector of ``num_classes`` classes that owns the backbone's stages.

    It takes a list of images (3, h, w) in [0, 1] and, in training, their targets, whose labels
    start at 1. ``mean`` and ``std`` normalize the images for the backbone.
    """
    parts: dict[str, Any] = {
        "min_size": sizes.short_sides,
        "max_size": sizes.longest,
        "image_mean": list(mean),
        "image_std": list(std),
        "box_batch_size_per_image": sizes.regions,
        "rpn_post_nms_top_n_test": sizes.proposals,
    }
    if kind == "c4":
        model = FasterRCNN(
            stem_to_res4(backbone),
            rpn_anchor_generator=AnchorGenerator((ANCHOR_SIDES,), (ASPECTS,)),
            rpn_pre_nms_top_n_train=12000,
            rpn_pre_nms_top_n_test=6000,
            rpn_post_nms_top_n_train=2000,
            box_roi_pool=MultiScaleRoIAlign(["0"], output_size=sizes.grid, sampling_ratio=0),
            box_head=Res5(backbone),
            box_predictor=FastRCNNPredictor(channels(backbone, 4), num_classes + 1),
            **parts,
        )
    else:
        sides = tuple((side,) for side in ANCHOR_SIDES)
        levels = ["0", "1", "2", "3"]
        model = FasterRCNN(
            pyramid(backbone),
            rpn_anchor_generator=AnchorGenerator(sides, (ASPECTS,) * len(sides)),
            rpn_post_nms_top_n_train=1000,
            box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=0),
            box_head=TwoMLPHead(PYRAMID_CHANNELS * 7 * 7, HIDDEN),
            box_predictor=FastRCNNPredictor(HIDDEN, num_classes + 1),
            **parts,
        )
    convert_batchnorm(model, "sync", group_size=0)
    return model
