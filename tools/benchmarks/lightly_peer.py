"""The peer of ``tools/bench.py peer``: SimCLR and MoCo built from lightly's modules.

lightly is an optional package. ``MISSING`` is the reason why it cannot be imported, or empty.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from models.modules.backbone import num_features
from pipelines.data_facts import DataFacts
from pipelines.views import View
from tools.config.config import Config

MISSING = ""
try:
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead, SimCLRProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum
    from lightly.transforms import SimCLRTransform
except ImportError as error:
    MISSING = str(error)


class Peer(nn.Module):
    """SimCLR or MoCo, built from lightly's modules as in its manual.

    Source: docs.lightly.ai, examples/simclr and examples/moco (lightly 1.6).
    """

    def __init__(self, config: Config, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.moco = backbone, config.method == "moco"
        width, numbers = num_features(backbone), config.chosen
        if self.moco:
            layers = 2 if numbers.mlp else 1
            self.head = MoCoProjectionHead(width, width, numbers.dim, num_layers=layers)
            self.encoder = nn.Sequential(backbone, self.head)
            self.key_encoder = copy.deepcopy(self.encoder)
            deactivate_requires_grad(self.key_encoder)
            bank = (numbers.queue, numbers.dim)
            self.loss = NTXentLoss(numbers.temperature, memory_bank_size=bank)
        else:
            hidden, norm = numbers.hidden or width, numbers.head_bn
            self.head = SimCLRProjectionHead(width, hidden, numbers.dim, batch_norm=norm)
            self.encoder = nn.Sequential(backbone, self.head)
            self.loss = NTXentLoss(numbers.temperature)
        self.numbers = numbers

    def forward(self, views: Sequence[Tensor]) -> Tensor:
        """Return the loss of two views (n, 3, h, w)."""
        a, b = views
        if not self.moco:
            return self.loss(self.encoder(a), self.encoder(b))
        update_momentum(self.encoder, self.key_encoder, m=self.numbers.momentum)
        pairs = [(a, b), (b, a)] if self.numbers.symmetric else [(a, b)]
        losses = []
        for query, key in pairs:
            with torch.no_grad():
                keys = self.key_encoder(key)
            losses.append(self.loss(self.encoder(query), keys))
        return torch.stack(losses).sum()


def transform(view: View, facts: DataFacts) -> Callable[..., Any]:
    """Return lightly's transform that makes two views with this view's settings.

    Raises:
        ValueError: lightly's transform has no such setting.
    """
    fits = view.scale[1] == 1 and view.ratio == View.ratio
    if not fits or view.solarize or view.vertical_flip or view.rotate90 or view.rand_augment[0]:
        raise ValueError(
            "lightly's transform crops up to the whole image at ratios of 3/4 to 4/3, and neither "
            "solarizes, turns images nor has RandAugment: leave those numbers of --aug alone"
        )
    brightness, contrast, saturation, hue = view.jitter
    return SimCLRTransform(
        input_size=view.size,
        cj_prob=view.jitter_prob,
        cj_strength=1.0,
        cj_bright=brightness,
        cj_contrast=contrast,
        cj_sat=saturation,
        cj_hue=hue,
        min_scale=view.scale[0],
        random_gray_scale=view.gray,
        gaussian_blur=view.blur,
        sigmas=view.blur_sigma,
        hf_prob=view.flip,
        normalize={"mean": list(facts.mean), "std": list(facts.std)},
    )
