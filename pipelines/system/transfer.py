"""Copies from the host to a device; ``to_device`` is defined with the batch contract."""

from __future__ import annotations

from pipelines.batch import to_device

__all__ = ["to_device"]
