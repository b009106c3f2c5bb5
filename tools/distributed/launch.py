"""Start a process of a run under plain python, ``accelerate launch`` or torchrun."""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path, PurePath

import torch
from accelerate import Accelerator, DistributedType
from accelerate.utils import DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch.distributed import DistError

from pipelines.settings import DevicePaths
from pipelines.system import device_path
from pipelines.system.tf32 import allow_tf32
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
    refuse_one_of_many(os.environ, parent_environment(), parent_words())
    if "WORLD_SIZE" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # end with the launcher
    # The option that replaces broadcast_buffers still overwrites the ranks' buffers at the start.
    warnings.filterwarnings("ignore", ".*broadcast_buffers.*", FutureWarning)
    # 1x1 convolutions in channels_last, whose strides mean the same (pytorch issue 157862).
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    accelerator = Accelerator(
        cpu=on_host,
        mixed_precision=precision,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
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
        allow_tf32()
        torch.backends.cudnn.benchmark = True
    return accelerator


def choose_paths(paths: DevicePaths, device: torch.device) -> None:
    """Set ``--device-paths`` for this process.

    Raises:
        ValueError: ``fused`` on the host, where there is no such path.
    """
    if paths == "fused" and device.type == "cpu":
        raise ValueError("--device-paths fused needs a CUDA device; on the host take auto or plain")
    device_path.choose(paths)


JOINED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
"""Variables of which Accelerate reads the number of processes."""


def refuse_one_of_many(
    environment: Mapping[str, str], before: Mapping[str, str], words: Sequence[str]
) -> None:
    """Refuse to train alone if ``accelerate launch`` was asked for several processes.

    Without ``--multi_gpu`` that launcher starts one process, whatever its number, and leaves a sign
    of it: it adds MASTER_ADDR for a group that nobody makes.

    Args:
        environment: this process's variables.
        before: the launcher's own variables.
        words: the launcher's command line.

    Raises:
        ValueError: naming the command that starts several processes.
    """
    launched = "ACCELERATE_USE_CPU" in environment and "MASTER_ADDR" in environment
    if not launched or "MASTER_ADDR" in before or any(name in environment for name in JOINED):
        return
    asked = _number_asked_for(words)
    instead = " instead of --cpu" if "--cpu" in words else ""
    raise ValueError(
        f"accelerate launch was asked for {asked or 'several'} processes, but without --multi_gpu "
        f"it starts one: give --multi_gpu{instead}, with or without GPUs:\n    "
        f"{_command_of_several(words, asked)}\nFor one process, --num_processes 1"
    )


def _command_of_several(words: Sequence[str], asked: str) -> str:
    """Return the launcher's command line with --multi_gpu in place of --cpu."""
    names = [PurePath(word).name.removesuffix(".py") for word in words]
    start = next((n for n, name in enumerate(names) if name.endswith("launch")), None)
    rest = ["train.py", "..."] if start is None else [word for word in words[start + 1 :] if word]
    options = ["--multi_gpu", *([] if asked else ["--num_processes", "N"])]
    if start is None and asked:
        options += ["--num_processes", asked]
    kept = [word for word in rest if word != "--cpu"]
    return shlex.join(["accelerate", "launch", *options, *kept])


def _number_asked_for(words: Sequence[str]) -> str:
    for word, following in itertools.pairwise([*words, ""]):
        name, _, value = word.partition("=")
        if name in ("--num_processes", "--num-processes"):
            return value or following
    return ""


def parent_environment() -> dict[str, str]:
    """Return the variables that the parent process was started with; empty if unknown."""
    pairs = (entry.partition("=") for entry in _of_parent("environ"))
    return {name: value for name, _, value in pairs}


def parent_words() -> list[str]:
    """Return the command line of the parent process; empty if unknown."""
    return _of_parent("cmdline")


def _of_parent(file: str) -> list[str]:
    try:
        data = Path(f"/proc/{os.getppid()}/{file}").read_bytes()
    except OSError:
        return []
    return data.decode(errors="replace").split("\0")


def is_lost_contact(error: RuntimeError) -> bool:
    """Whether an error means that another process of the group is gone or did not answer."""
    return isinstance(error, (LostProcess, DistError)) or "gloo" in str(error)


def check_workers(workers: int) -> None:
    """Refuse more threads or processes than cores; 0 means one on each core.

    Raises:
        ValueError: the number is out of range; the text names the flag.
    """
    if not 0 <= workers <= (cores := cores_per_process()):
        raise ValueError(f"--workers must be 0 to {cores}, the number of cores, not {workers}")
