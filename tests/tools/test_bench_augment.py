"""The device's clock of tools.benchmarks.augment, with a faked device: ten calls in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from tools.benchmarks import augment


class Device:
    """A device on which a call takes 3 ms when it is launched, and 1 ms inside a graph."""

    def __init__(self, *, captures: bool) -> None:
        self.now, self.captures, self.recording = 0.0, captures, False
        self.recorded = 0

    def work(self) -> None:
        if self.recording:
            self.recorded += 1
        else:
            self.now += 3.0

    def replay(self) -> None:
        self.now += self.recorded

    @contextmanager
    def graph(self, _: Any) -> Iterator[None]:
        self.recording = True
        yield
        self.recording = False
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing")


class Event:
    def __init__(self, device: Device) -> None:
        self.device, self.at = device, 0.0

    def record(self) -> None:
        self.at = self.device.now

    def elapsed_time(self, other: Event) -> float:
        return other.at - self.at


@pytest.mark.parametrize(
    ("captures", "expected"), [(True, (1.0, "kernels")), (False, (3.0, "launches"))]
)
def test_kernels_are_timed_in_a_graph_and_launches_without(
    monkeypatch: pytest.MonkeyPatch, captures: bool, expected: tuple[float, str]
) -> None:
    device = Device(captures=captures)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: device)
    monkeypatch.setattr(torch.cuda, "graph", device.graph)
    monkeypatch.setattr(torch.cuda, "Event", lambda enable_timing: Event(device))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert augment.device_milliseconds(device.work) == expected
    assert device.recorded == augment.CAPTURED
