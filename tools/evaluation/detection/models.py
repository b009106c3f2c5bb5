"""Faster R-CNN on a ResNet of timm, out of torchvision's parts. Ren 2015, arXiv:1506.01497.

``c4``: the stages up to res4 give the features, res5 and one more norm are the head of each
region (He 2020, arXiv:1911.05722, appendix). ``fpn``: all four stages through a feature pyramid
(Lin 2017, arXiv:1612.03144), two linear layers a region. Nothing is frozen; every batch norm
shares its statistics over the processes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from timm.models.resnet import ResNet
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from models.modules.batchnorm import convert_batchnorm

Detector = Literal["c4", "fpn"]

ANCHOR_SIDES = (32, 64, 128, 256, 512)
"""Pixels; C4 has them all at each place, a pyramid one at each of its levels."""
ASPECTS = (0.5, 1.0, 2.0)
PYRAMID_CHANNELS = 256
HIDDEN = 1024
"""Units of each linear layer in FPN's head."""


@dataclass(frozen=True)
class Sizes:
    """How large pictures are shown, in pixels, and how many regions of each are looked at."""

    short_sides: tuple[int, ...]
    """Training draws one of these for a picture's shorter side; the test takes the last."""
    regions: int = 512
    """Regions of a picture that the head learns from."""
    proposals: int = 1000
    """Regions of a picture that the head looks at in the test."""
    longest: int = 1333
    grid: int = 14
    """Places along each side of a region that C4's head is shown; FPN's is shown 7."""


class Stages(nn.Module):
    """The stem and some stages of a ResNet of timm, under timm's names."""

    def __init__(self, backbone: ResNet, wanted: Sequence[int]) -> None:
        super().__init__()
        self.conv1, self.bn1 = backbone.conv1, backbone.bn1
        self.act1, self.maxpool = backbone.act1, backbone.maxpool
        self.wanted = tuple(wanted)
        for stage in range(1, max(wanted) + 1):
            self.add_module(f"layer{stage}", backbone.get_submodule(f"layer{stage}"))
        self.out_channels = channels(backbone, self.wanted[-1])

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Return the features of the wanted stages, the largest first, named "0", "1", ..."""
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        found: OrderedDict[str, Tensor] = OrderedDict()
        for stage in range(1, self.wanted[-1] + 1):
            x = self.get_submodule(f"layer{stage}")(x)
            if stage in self.wanted:
                found[str(len(found))] = x
        return found


class Pyramid(nn.Module):
    """Four stages and the pyramid over them."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.body = Stages(backbone, (1, 2, 3, 4))
        self.fpn = FeaturePyramidNetwork(
            [channels(backbone, stage) for stage in (1, 2, 3, 4)],
            PYRAMID_CHANNELS,
            LastLevelMaxPool(),
            norm_layer=nn.BatchNorm2d,
        )
        self.out_channels = PYRAMID_CHANNELS

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Return five levels, the largest first."""
        return self.fpn(self.body(x))


class Res5(nn.Module):
    """The ResNet's last stage and one more norm, over each region."""

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.layer4 = backbone.get_submodule("layer4")
        self.norm = nn.BatchNorm2d(channels(backbone, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Return a row for each region: (regions, c, grid, grid) -> (regions, d)."""
        return self.norm(self.layer4(x)).mean((2, 3))


def channels(backbone: ResNet, stage: int) -> int:
    """Return the channels after a stage, 1 to 4."""
    stages: list[dict[str, Any]] = list(backbone.feature_info)
    return stages[stage]["num_chs"]


def check_backbone(backbone: nn.Module, name: str) -> ResNet:
    """Return the backbone if it has the stages of a ResNet over RGB pictures.

    Raises:
        ValueError: it has not.
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
    """Return a detector of ``num_classes`` kinds of things that owns the backbone's stages.

    It takes a list of pictures (3, h, w) in [0, 1] and, while training, their targets with labels
    from 1; ``mean`` and ``std`` are what the backbone saw its pictures normalised by.
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
            Stages(backbone, (3,)),
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
            Pyramid(backbone),
            rpn_anchor_generator=AnchorGenerator(sides, (ASPECTS,) * len(sides)),
            rpn_post_nms_top_n_train=1000,
            box_roi_pool=MultiScaleRoIAlign(levels, output_size=7, sampling_ratio=0),
            box_head=TwoMLPHead(PYRAMID_CHANNELS * 7 * 7, HIDDEN),
            box_predictor=FastRCNNPredictor(HIDDEN, num_classes + 1),
            **parts,
        )
    convert_batchnorm(model, "sync", group_size=0)
    return model
