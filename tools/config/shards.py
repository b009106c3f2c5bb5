"""Which members of tar shards are read: ``--image-key``, ``--label-key``."""

from __future__ import annotations

from dataclasses import dataclass

from tools.config.section import Section


@dataclass(frozen=True)
class ShardConfig(Section):
    """Which members of ``wds:`` tar shards are read (docs/shards.md)."""

    title = "shards"
    image_key: str | None = None
    """Key of the images, as input.jpg; None: any image's ending, or image.jpg."""
    label_key: str | None = None
    """Key of the member, or field of the .json, that is the class; None: cls, or label in json."""
