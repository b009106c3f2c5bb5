"""Images from disk to augmented, mixed batches on a device, for any PyTorch training loop.

``open_data``, ``build_loader``, ``build_eval_loader``, ``pixel_statistics``, ``Batch`` and ``View``
are the public API; docs/loader.md has examples. Each is imported on first use, so that importing a
light module of this package does not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.batch import Batch as Batch
    from pipelines.normalization import pixel_statistics as pixel_statistics
    from pipelines.public import build_eval_loader as build_eval_loader
    from pipelines.public import build_loader as build_loader
    from pipelines.public import open_data as open_data
    from pipelines.views import View as View

_HOMES = {
    "Batch": "pipelines.batch",
    "View": "pipelines.views",
    "pixel_statistics": "pipelines.normalization",
    **dict.fromkeys(("open_data", "build_loader", "build_eval_loader"), "pipelines.public"),
}
__all__ = ["Batch", "View", "build_eval_loader", "build_loader", "open_data", "pixel_statistics"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'pipelines' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
