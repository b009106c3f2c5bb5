"""``python tools/bench.py batchnorm``: a forward and backward pass of batch norm, several ways.

"batch" is PyTorch's over all rows. "groups, PyTorch" is it within each of 8 groups, one after the
other, and "groups, Triton" is that in four kernels. "sync, plain" and "sync, kernels" share
statistics between two processes, the second of which is made up, so that nothing is exchanged: the
first is written in PyTorch, the second takes the CUDA kernels under ``nn.SyncBatchNorm``.

On a GPU the shapes are those of ResNet-50 at 224 px in bfloat16, 256 images; a time is that between
CUDA events around 10 calls, so it includes the host where that is the slower. On the host they
are small, in float32, and a time is a thread's CPU time. "launches" are the kernels that ran on a
GPU, or the operations on the host. "passes" are the bytes moved, as a multiple of those of the
activations; the least is 8 (x read twice and y written; x and dy read twice and dx written).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.modules import batchnorm_group
from models.modules.batchnorm import BatchNorm
from models.modules.batchnorm_sync import SYNC_NORM, NativeSyncNorm, SyncNorm, TwoRanks
from pipelines.system import device_path
from pipelines.system.device_path import DevicePath
from tools.benchmarks import harness

GPU_SHAPES = ((256, 64, 112), (256, 256, 56), (256, 512, 28), (256, 1024, 14), (256, 2048, 7))
HOST_SHAPES = ((32, 16, 16), (32, 64, 4))
CALLS = 10
"""Calls between two CUDA events."""
EPS = 1e-5
REREAD = {"native_batch_norm": 1, "cudnn_batch_norm": 1, "native_batch_norm_backward": 2}
REREAD |= {"cudnn_batch_norm_backward": 2}
"""Activations that an operation reads a second time: statistics first, then the result."""


@dataclass(frozen=True, kw_only=True)
class Arguments(harness.Options):
    """Options of the benchmark."""

    groups: int = 8
    """Groups within which "groups" normalizes."""
    repeats: int = 20
    """Number of measurements; the median counts."""

    def __post_init__(self) -> None:
        harness.check_positive(self, "groups", "repeats")
        if HOST_SHAPES[0][0] % self.groups:
            raise ValueError(f"--groups must divide {HOST_SHAPES[0][0]}, not be {self.groups}")


class Traffic(TorchDispatchMode):
    """Counts operations, and the bytes of their arguments and results; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and count it."""
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name.startswith(("empty", "new_empty")) or name == "detach":
            return out
        self.operations += 1
        given = [x for x in tree_leaves((args, out)) if isinstance(x, Tensor)]
        largest = max((x.nbytes for x in given), default=0)
        self.bytes += sum(x.nbytes for x in given) + REREAD.get(name, 0) * largest
        return out


def contenders(x: Tensor, groups: int) -> dict[str, Callable[[], Tensor]]:
    """Return what exists on the device of ``x``: each computes y anew."""
    channels = x.shape[1]
    weight, bias = (torch.ones(channels, device=x.device, requires_grad=True) for _ in range(2))
    mean, var = torch.zeros(channels, device=x.device), torch.ones(channels, device=x.device)
    split = BatchNorm(channels, mode="group", group_size=len(x) // groups).to(x.device)
    ranks = TwoRanks()

    def loop() -> Tensor:
        with device_path.only("plain"):
            y: Tensor = split(x)
        return y

    found: dict[str, Callable[[], Tensor]] = {
        "batch": lambda: F.batch_norm(x, mean, var, weight, bias, True, 0.1, EPS),
        "groups, PyTorch": loop,
        "groups, Triton": lambda: split(x),
        "sync, plain": lambda: SyncNorm.apply(x, weight, bias, EPS, ranks)[0],
        "sync, kernels": lambda: NativeSyncNorm.apply(
            x, weight, bias, (mean, var), 0.1, EPS, ranks
        ),
    }
    proved: dict[str, DevicePath] = {
        "groups, Triton": batchnorm_group.GROUP_NORM,
        "sync, kernels": SYNC_NORM,
    }
    for name, path in proved.items():
        if x.device.type == "cpu" or not path.usable(x.device):
            del found[name]
    return found


def passes(forward: Callable[[], Tensor], dy: Tensor, x: Tensor) -> tuple[int, float]:
    """Return the number of operations of both ways, and the bytes over those of ``x``."""
    with Traffic() as count:
        torch.autograd.grad(forward(), x, dy)
    return count.operations, count.bytes / x.nbytes


def launches(both: Callable[[], object]) -> int:
    """Return the number of kernels, copies and fills that a call runs on a GPU."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    both()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        both()
        torch.cuda.synchronize()
    events = profiled.events() or []
    return sum(event.device_type == DeviceType.CUDA for event in events)


def device_milliseconds(both: Callable[[], object], repeats: int) -> float:
    """Return the time of a call: the median of ``repeats`` times between events around 10."""
    times = []
    for _ in range(repeats + 3):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(CALLS):
            both()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / CALLS)
    return median(times[3:])


def rows(device: torch.device, options: Arguments) -> Iterator[dict[str, Any]]:
    """Measure each contender at each shape."""
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    for n, channels, side in GPU_SHAPES if on_gpu else HOST_SHAPES:
        x = torch.randn(n, channels, side, side, device=device, dtype=dtype)
        x = x.to(memory_format=torch.channels_last).requires_grad_()
        dy = torch.randn_like(x)
        for name, forward in contenders(x, options.groups).items():
            both = partial(_both, forward, x, dy)
            operations, moved = passes(forward, dy, x)
            if name == "groups, Triton":
                moved = batchnorm_group.traffic(x, options.groups) / x.nbytes
            if on_gpu:
                time = device_milliseconds(both, options.repeats)
                operations = launches(both)
            else:
                time = harness.cpu_milliseconds(both, 1, options.repeats)
            yield {
                "case": name,
                "shape": [n, channels, side, side],
                "milliseconds": time,
                "launches": operations,
                "passes": moved,
                "timed": "launches" if on_gpu else "host",
            }


def _both(forward: Callable[[], Tensor], x: Tensor, dy: Tensor) -> None:
    torch.autograd.grad(forward(), x, dy)


def run(options: Arguments, _: list[str]) -> dict[str, Any]:
    """Measure, print the table, and return the results."""
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
    results: dict[str, Any] = harness.record(device)
    torch.set_num_threads(1)
    results["rows"] = list(rows(device, options))
    print(harness.machine_line(results))
    print()
    columns = ("norm", "shape", "ms", "launches", "passes", "GB/s", "timed")
    print(harness.table(columns, [cells(row, 2 if on_gpu else 4) for row in results["rows"]]))
    return results


def cells(row: Mapping[str, Any], itemsize: int) -> tuple[str, ...]:
    """Return a row of the table; ``itemsize`` is the number of bytes of a value."""
    n, channels, height, width = row["shape"]
    moved = row["passes"] * n * channels * height * width * itemsize
    return (
        row["case"],
        f"{n}x{channels}x{height}x{width}",
        f"{row['milliseconds']:.3f}",
        str(row["launches"]),
        f"{row['passes']:.1f}",
        f"{moved / row['milliseconds'] / 1e6:.0f}",
        row["timed"],
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; return the exit status."""
    return harness.run_benchmark("batchnorm", Arguments, run, argv)
