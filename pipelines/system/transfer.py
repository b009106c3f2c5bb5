"""Copies from the host to a device, and the CUDA stream that makes them beside the computation.

``to_device`` is defined with the batch contract.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from pipelines.batch import to_device
from pipelines.system.device_path import DevicePath

__all__ = ["SIDE_STREAM", "copy_stream", "device_thread", "to_device"]


def copy_stream(device: torch.device) -> torch.cuda.Stream | None:
    """Return the stream that copies the data of the next steps; None on the host.

    It is one of its own if ``SIDE_STREAM`` has proved itself on ``device``, else the current one.
    """
    if device.type != "cuda":
        return None
    if SIDE_STREAM.usable(device):
        return torch.cuda.Stream(device)
    return torch.cuda.current_stream(device)


def device_thread(name: str, device: torch.device) -> ThreadPoolExecutor:
    """Return a pool of one thread that works on ``device`` (without an index: the current one).

    A new thread starts on GPU 0, whatever the main thread has set: its first CUDA call would open a
    context there, 500 MiB for each process of the machine (PyTorch pull request 94864).
    """
    if device.type != "cuda":
        return ThreadPoolExecutor(1, name)
    index = torch.cuda.current_device() if device.index is None else device.index
    return ThreadPoolExecutor(1, name, torch.cuda.set_device, (index,))


def _sample() -> Tensor:
    return torch.arange(2048, dtype=torch.int32)


def _copied_aside(device: torch.device) -> list[Tensor]:
    """Copy as the loader does: pinned, on a side stream, handed over by an event."""
    stream, training = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(stream):
        there = _sample().pin_memory().to(device, non_blocking=True)
        arrived = stream.record_event()
    training.wait_event(arrived)
    there.record_stream(training)
    return [there + 1]


def _copied(device: torch.device) -> list[Tensor]:
    return [_sample().to(device) + 1]


SIDE_STREAM = DevicePath("copy on a side stream", _copied_aside, _copied, tolerance=0.0)
