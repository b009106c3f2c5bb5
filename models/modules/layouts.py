"""Files of weights by the layout of their keys: where in them a backbone's tensors are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

TORCHVISION_VIT = {
    r"encoder\.layers\.encoder_layer_(\d+)\.": r"blocks.\1.",
    r"\.self_attention\.in_proj_": ".attn.qkv.",
    r"\.self_attention\.out_proj\.": ".attn.proj.",
    r"\.mlp\.(0|linear_1)\.": ".mlp.fc1.",
    r"\.mlp\.(3|linear_2)\.": ".mlp.fc2.",
    r"\.ln_([12])\.": r".norm\1.",
    r"encoder\.ln\.": "norm.",
    r"encoder\.pos_embedding$": "pos_embed",
    r"class_token$": "cls_token",
    r"conv_proj\.": "patch_embed.proj.",
    r"heads\.head\.": "head.",
}
"""Names in torchvision's ViTs, and those of the same tensors in timm's, after any prefix."""


def timm_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of a ViT of torchvision's by timm's names; others as they are."""
    if not any(key.endswith("encoder.pos_embedding") for key in tensors):
        return tensors
    renamed = {}
    for key, value in tensors.items():
        for theirs, ours in TORCHVISION_VIT.items():
            key = re.sub(theirs, ours, key)
        renamed[key] = value
    return renamed


@dataclass(frozen=True)
class Layout:
    """Where released code keeps the weights of its encoder."""

    name: str
    path: tuple[str, ...] = ()
    """Keys that lead from the file's content to a dictionary of tensors."""
    prefix: str = ""
    """Beginning of the names of the encoder's tensors."""

    def tensors(self, content: Mapping[Any, Any]) -> dict[str, Tensor]:
        """Return all tensors of the dictionary that the path leads to; empty without one."""
        found: Any = content
        for key in self.path:
            found = found.get(key) if isinstance(found, Mapping) else None
        if not isinstance(found, Mapping):
            return {}
        tensors = {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
        return timm_names(tensors)


_VISSL = ("classy_state_dict", "base_model", "model", "trunk")
LAYOUTS = (
    Layout("VISSL", _VISSL, "_feature_blocks."),
    Layout("MoCo", ("state_dict",), "module.encoder_q."),
    Layout("MoCo v3", ("state_dict",), "module.base_encoder."),
    Layout("SimSiam", ("state_dict",), "module.encoder."),
    Layout("DINO teacher", ("teacher",), "module.backbone."),
    Layout("DINO teacher", ("teacher",), "backbone."),
    Layout("DINO student", ("student",), "module.backbone."),
    Layout("Barlow Twins or VICReg", ("model",), "module.backbone."),
    Layout("solo-learn, mmselfsup or SimCLR", ("state_dict",), "module.backbone."),
    Layout("solo-learn, mmselfsup or SimCLR", ("state_dict",), "backbone."),
    Layout("solo-learn, mmselfsup or SimCLR", ("state_dict",), "encoder."),
    Layout("I-JEPA", ("target_encoder",), "module."),
    Layout("SimCLR, converted from TensorFlow", ("resnet",), "net."),
    Layout("SimCLR, converted from TensorFlow", ("resnet",)),
    Layout("timm checkpoint, averaged weights", ("state_dict_ema",), "module."),
    Layout("timm checkpoint, averaged weights", ("state_dict_ema",)),
    Layout("timm checkpoint, averaged weights", ("model_ema",)),
    Layout("checkpoint of parallel training", ("state_dict",), "module."),
    Layout("checkpoint", ("state_dict",)),
    Layout("checkpoint of parallel training", ("model",), "module."),
    Layout("MAE, DeiT or torchvision checkpoint", ("model",)),
    Layout("BYOL", ("online_backbone",)),
    Layout("MoCo", (), "module.encoder_q."),
    Layout("MoCo v3", (), "module.base_encoder."),
    Layout("module of parallel training", (), "module.backbone."),
    Layout("SwAV", (), "module."),
    Layout("encoder and head", (), "backbone."),
    Layout("timm"),
)
"""The layouts that ``--init FILE`` knows. The first whose prefix occurs is that of the file."""


@dataclass(frozen=True)
class Found:
    """The encoder's tensors in a file."""

    layout: Layout | None
    state: dict[str, Tensor]
    """The encoder's tensors, without the layout's prefix."""
    others: tuple[str, ...]
    """Names of the other tensors that lie beside them."""


def find_encoder(content: Mapping[Any, Any]) -> Found:
    """Return the encoder's tensors in the content of a file; none, if it has no known layout."""
    for layout in LAYOUTS:
        tensors = layout.tensors(content)
        cut = len(layout.prefix)
        state = {key[cut:]: v for key, v in tensors.items() if key.startswith(layout.prefix)}
        if state:
            others = tuple(key for key in tensors if not key.startswith(layout.prefix))
            return Found(layout, state, others)
    return Found(None, {}, ())
