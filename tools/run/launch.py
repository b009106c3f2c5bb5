"""Start a process of a run: one Accelerator for plain python, ``accelerate launch`` and torchrun."""

from __future__ import annotations

import os
import signal
from types import FrameType

import psutil
import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DistributedDataParallelKwargs

SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def start(precision: str | None) -> Accelerator:
    """Join the process group, if a launcher made one, and take this process's device.

    Raises:
        ValueError: the launcher asks for something this trainer does not do, or its processes
            did not find each other.
    """
    on_host = not torch.cuda.is_available()
    if precision == "fp16" and on_host:
        raise ValueError("--precision fp16 needs a CUDA device; on the host take bf16 or no")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise ValueError("the launcher's --dynamo_backend is not supported; use --compile")
    accelerator = Accelerator(
        cpu=on_host,
        mixed_precision=precision,
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if expected != accelerator.num_processes:
        raise ValueError(
            f"the launcher started {expected} processes but {accelerator.num_processes} joined"
        )
    if accelerator.distributed_type not in SUPPORTED:
        raise ValueError(
            f"{accelerator.distributed_type.value} is not supported: configure accelerate for "
            "plain data parallelism (no FSDP, no DeepSpeed)"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ValueError("the launcher's --gradient_accumulation_steps must be 1")
    if on_host:
        torch.set_num_threads(cores_per_process())
    else:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    return accelerator


def cores_per_process() -> int:
    """Return this process's share of the cores it may run on."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))
    allowed = len(psutil.Process().cpu_affinity() or [0])
    return max(allowed // local, 1)


class StopSignal:
    """Turns SIGTERM, SIGINT and SIGUSR1 into a wish to stop after the current step.

    A second signal ends the process at once.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

    def __init__(self) -> None:
        self.received: str | None = None
        self._before = {number: signal.signal(number, self._receive) for number in self.SIGNALS}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        self.restore()

    def restore(self) -> None:
        """Put the earlier handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
