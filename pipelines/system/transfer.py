"""From the host to a device without waiting for it; the function belongs to the batch contract."""

from __future__ import annotations

from pipelines.batch import to_device

__all__ = ["to_device"]
