"""What a backbone's name says: its kind, and how it is trained; imports no torch."""

from __future__ import annotations

import re
from dataclasses import replace

from models.settings.base import Defaults

OWN = re.compile(r"(.+\.py):(\w+)")
"""``file.py:Class``, a backbone of one's own."""
HUB = ("hf-hub:", "local-dir:")
"""Beginnings of timm's names of models on the Hugging Face hub, or in a folder of its form."""
FAMILIES = (
    *("vit_", "vitamin_", "naflexvit_", "samvit_", "flexivit_", "test_vit", "test_byovit"),
    *("deit_", "deit3_", "beit_", "beitv2_", "beit3_", "cait_", "eva", "xcit_", "convit_", "coat_"),
    *("crossvit_", "davit_", "focalnet_", "gcvit_", "hiera_", "hieradet_", "mvitv2_", "nest_"),
    *("pit_", "pvt_", "swin_", "swinv2_", "swin_s3_", "tiny_vit_", "tnt_", "twins_", "visformer_"),
    *("coatnext_", "test_coatnet", "test_maxvit", "sam2_hiera_"),
    *("volo_", "jx_nest_", "levit_", "maxvit_", "maxxvit", "coatnet_", "mobilevit", "rope_vit"),
    *("aimv2_", "siglip", "gemma4_vit", "qwen3_vit", "deepseek_vit", "mixer_", "gmixer_"),
    *("resmlp_", "gmlp_", "caformer_", "poolformer", "csatv2", "nextvit_", "sequencer2d_"),
)
"""Beginnings of timm's names of transformers and of their all-MLP relatives."""


def is_transformer(backbone: str) -> bool:
    """Return whether a timm name is that of a transformer, which SGD and LARS train badly.

    >>> is_transformer("vit_tiny_patch16_224"), is_transformer("resnet50")
    (True, False)
    """
    return backbone.startswith(FAMILIES)


def is_resnet(backbone: str) -> bool:
    """Return whether a timm name is that of a ResNet, which can have a small stem.

    >>> is_resnet("seresnext50_32x4d"), is_resnet("resnetv2_50")
    (True, False)
    """
    pattern = r"(test_|wide_|se|eca)?resnex?t(?!v2|\d+ts|\d+q|.*_clip|.*_mlp)|senet154"
    return re.match(pattern, backbone) is not None


def is_plain_vit(backbone: str) -> bool:
    """Return whether a timm name is that of a ViT whose first layer is a patch embedding.

    >>> is_plain_vit("deit_small_patch16_224"), is_plain_vit("vit_base_r50_s16_224")
    (True, False)
    """
    return re.match(r"(vit|deit3?)_\w*patch\d", backbone) is not None


def defaults_of(published: Defaults, transformer: Defaults | None, backbone: str) -> Defaults:
    """Return how a method trains this backbone.

    Args:
        published: the method's training of ResNets.
        transformer: its published training of ViTs; None: none, so the optimizer, rate and weight
            decay of MoCo v3's ViTs (Chen 2021, 2104.02057), without decay of biases and norms.
        backbone: a timm name.
    """
    if not is_transformer(backbone):
        return published
    return transformer or replace(
        published,
        optimizer="adamw",
        lr_per_256=1.5e-4,
        weight_decay=0.1,
        decay_norm_and_bias=False,
        schedule="cosine",
        warmup_epochs=max(10, published.warmup_epochs),
        final_lr_ratio=0.0,
    )
