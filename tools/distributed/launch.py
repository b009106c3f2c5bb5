"""Start a process of a run under plain python, ``accelerate launch`` or torchrun."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch.distributed import DistError

from pipelines.system.workers import cores_per_process
from tools.distributed.preemption import LostProcess

PR_SET_PDEATHSIG = 1
UNSUPPORTED = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
SUPPORTED = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


def start(precision: str | None, timeout: timedelta = timedelta(minutes=10)) -> Accelerator:
    """Join the process group, if a launcher made one, and select this process's device.

    A process that waits for another one longer than ``timeout`` ends.

    Raises:
        ValueError: the launcher requests a feature that is not supported, or its processes did not
            find each other.
    """
    on_host = not torch.cuda.is_available()
    if precision == "fp16" and on_host:
        raise ValueError("--precision fp16 needs a CUDA device; on the host take bf16 or no")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise ValueError("the launcher's --dynamo_backend is not supported; use --compile")
    for name in UNSUPPORTED:
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(
                f"the launcher's {name} is not supported: configure accelerate for plain data "
                "parallelism"
            )
    if "WORLD_SIZE" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # end with the launcher
    # The option that replaces broadcast_buffers still overwrites the ranks' buffers at the start.
    warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
    accelerator = Accelerator(
        cpu=on_host,
        mixed_precision=precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timeout),
        ],
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


def is_lost_contact(error: RuntimeError) -> bool:
    """Whether an error means that another process of the group is gone or did not answer."""
    return isinstance(error, (LostProcess, DistError)) or "gloo" in str(error)


def check_trackers(names: Sequence[str]) -> None:
    """Check that the trackers' packages are installed.

    Raises:
        ValueError: a tracker's package is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ValueError(f"--log-with {name}: not installed; .venv/bin/uv pip install {name}")


def start_trackers(accelerator: Accelerator, folder: Path, names: Sequence[str]) -> None:
    """Start Accelerate's trackers for the run in ``folder``; ``accelerator.log`` writes to them."""
    makers: dict[str, Callable[[], GeneralTracker]] = {
        "tensorboard": lambda: TensorBoardTracker("tensorboard", folder),
        "wandb": lambda: WandBTracker(folder.name, dir=str(folder)),
    }
    accelerator.trackers = [makers[name]() for name in names]
    for tracker in accelerator.trackers:
        tracker.start()


def check_workers(workers: int) -> None:
    """Refuse more threads or processes than cores; 0 means one on each core.

    Raises:
        ValueError: the number is out of range; the text names the flag.
    """
    if not 0 <= workers <= (cores := cores_per_process()):
        raise ValueError(f"--workers must be 0 to {cores}, the number of cores, not {workers}")
