"""The machine and the commit of a measurement."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from tools.distributed.launch import cores_per_process

ROOT = Path(__file__).resolve().parent.parent.parent


def machine(device: torch.device) -> dict[str, Any]:
    """Return the processor, its cores for this process, their load, the GPU, and versions."""
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": processor(),
        "cores": cores_per_process(),
        "load": round(os.getloadavg()[0], 2),
        "gpu": gpu,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }


def processor() -> str:
    """Return the processor's name, as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def commit() -> str:
    """Return the checkout's commit, with a + when files differ from it; empty outside of git."""

    def git(*words: str) -> str:
        command = ("git", "-C", str(ROOT), *words)
        try:
            return subprocess.run(command, capture_output=True, text=True).stdout.strip()
        except OSError:
            return ""

    name = git("rev-parse", "--short=12", "HEAD")
    return name + ("+" if name and git("status", "--porcelain") else "")
