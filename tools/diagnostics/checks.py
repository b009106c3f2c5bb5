"""Checks of this machine: what works, what is missing, and the exact fix.

Module-level imports are standard library only: each check imports the package that it checks.
"""

from __future__ import annotations

import base64
import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "rm -rf .venv/.unmix && make install"

OTHERS = (
    *("numpy", "PIL", "tyro", "yaml", "jaxtyping", "torchmetrics", "tensorboard", "matplotlib"),
    *("psutil", "skimage", "sklearn"),
)
"""Import names of the remaining dependencies in pyproject.toml."""

SYSTEM = {"opencv4": "libopencv-dev", "libturbojpeg": "libturbojpeg0-dev"}
"""Libraries needed to build FFCV: pkg-config's name -> Debian's package."""
LIBRARIES = {"libGL.so.1": "libgl1", "libgthread-2.0.so.0": "libglib2.0-0"}
"""Libraries of opencv-python, which FFCV imports: file -> Debian's package."""

JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAFA3PEY8MlBGQUZaVVBfeMiCeG5uePWvuZHI/////////////////////////"
    "///////////////////////////2wBDAVVaWnhpeOuCguv///////////////////////////////////////////////"
    "//////////////////////////wAARCAAQABADAREAAhEBAxEB/8QAFAABAAAAAAAAAAAAAAAAAAAAAP/EABQQAQAAAAAA"
    "AAAAAAAAAAAAAAD/xAAVAQEBAAAAAAAAAAAAAAAAAAAAA//EABQRAQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/"
    "ACaoAAD/2Q=="
)
"""16 x 16 pixels of the colour below."""
COLOR = (202, 105, 54)


@dataclass(frozen=True)
class Check:
    """The result of a check, one line of the table."""

    name: str
    ok: bool
    found: str
    """The version or value found, or the problem."""
    needed: bool = True
    """Whether ``make train`` cannot do without it."""
    fix: str = ""
    """The command that fixes it, if ``ok`` is false."""


def run_checks() -> list[Check]:
    """Run all checks, in the order of a repair."""
    checks = [check_python()]
    checks += [check_package(name) for name in ("torch", "torchvision", "timm", "accelerate")]
    checks += [check_package(name) for name in ("numba", "rich")]
    checks += [check_others(), check_cuda()]
    decoders = [check_dali("cpu"), check_ffcv()]
    checks += [decoders[0]]
    if gpu_is_seen():
        checks += [check_dali("gpu")]
    checks += [decoders[1], check_decoder(decoders)]
    return checks + check_system() + check_machine()


def gpu_is_seen() -> bool:
    """Whether torch can use a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_available())


def check_python() -> Check:
    """Check for Python 3.11 to 3.14, for which requirements.txt pins wheels."""
    ok = (3, 11) <= sys.version_info[:2] <= (3, 14)
    fix = f"{apt('python3.11 python3.11-venv')} && make install PYTHON=python3.11"
    return Check("Python", ok, f"{platform.python_version()} ({sys.executable})", fix=fix)


def check_package(name: str) -> Check:
    """Check that ``name`` can be imported, and find its version."""
    try:
        module = importlib.import_module(name)
    except Exception as error:  # a broken package may raise anything
        return Check(name, False, reason(error), fix=INSTALL)
    return Check(name, True, getattr(module, "__version__", None) or release(name))


def check_others() -> Check:
    """Check that the remaining Python packages are installed, without importing them."""
    absent = [name for name in OTHERS if not is_installed(name)]
    found = f"not installed: {' '.join(absent)}" if absent else f"{len(OTHERS)} packages"
    return Check("other packages", not absent, found, fix=INSTALL)


def check_cuda() -> Check:
    """Check whether torch can use a GPU, which is optional."""
    driver = shutil.which("nvidia-smi") is not None
    try:
        import torch

        if torch.cuda.is_available():
            torch.zeros(1, device="cuda")
            return Check("CUDA", True, f"torch's {torch.version.cuda}", needed=False)
        built = torch.version.cuda
    except Exception as error:
        return Check("CUDA", False, reason(error), needed=False, fix=INSTALL)
    if driver:
        found = f"a driver is here, but torch (CUDA {built}) sees no GPU"
        fix = "nvidia-smi; update the driver if it is older than that CUDA"
        return Check("CUDA", False, found, needed=False, fix=fix)
    return Check("CUDA", True, "no GPU: runs on the host", needed=False)


def check_dali(device: str) -> Check:
    """Check that DALI decodes a JPEG on ``device``, "cpu" or "gpu"."""
    name = f"DALI {device.upper()}"
    try:
        import numpy as np
        import nvidia.dali as dali
        import nvidia.dali.experimental.dynamic as dynamic

        data = np.frombuffer(JPEG, np.uint8)
        with dynamic.EvalContext(num_threads=1):
            batch = dynamic.decoders.image(dynamic.as_batch([data]), device=device)
            image = np.asarray(batch.cpu().tensors[0])
        check_pixels(image)
    except Exception as error:
        return Check(name, False, reason(error), needed=False, fix=INSTALL)
    return Check(name, True, f"{dali.__version__}, decodes", needed=False)


def check_ffcv() -> Check:
    """Check that FFCV's compiled library loads and decodes a JPEG."""
    if not is_installed("ffcv"):
        return Check("FFCV", False, "not installed", needed=False, fix=ffcv_fix())
    try:
        import numpy as np
        from ffcv.libffcv import imdecode

        image = np.zeros((16, 16, 3), np.uint8)
        imdecode(np.frombuffer(JPEG, np.uint8), image, 16, 16, 16, 16, 0, 0, 1, 1, False, False)
        check_pixels(image)
    except Exception as error:
        return Check("FFCV", False, reason(error), needed=False, fix=ffcv_fix())
    return Check("FFCV", True, f"{release('ffcv')}, decodes", needed=False)


def check_decoder(decoders: list[Check]) -> Check:
    """Check that at least one JPEG decoder works."""
    able = [check.name for check in decoders if check.ok]
    return Check("JPEG decoder", bool(able), " ".join(able) or "none works", fix=INSTALL)


def check_system() -> list[Check]:
    """Check the system packages that FFCV needs."""
    return [
        Check(name, bool(found), found or "not found", False, apt(package))
        for name, found, package in system_parts()
    ]


def system_parts() -> list[tuple[str, str, str]]:
    """Return each part's name, its version or path (empty if missing), and Debian's package."""
    header = Path(sysconfig.get_path("include")) / "Python.h"
    found = str(header) if header.exists() else ""
    return [
        *((name, shutil.which(name) or "", name) for name in ("g++", "pkg-config")),
        ("Python.h", found, f"{header.parent.name}-dev"),
        *((name, output("pkg-config", "--modversion", name), SYSTEM[name]) for name in SYSTEM),
        *((name, "loads" if loads(name) else "", LIBRARIES[name]) for name in LIBRARIES),
    ]


def missing_system_packages() -> list[str]:
    """Return the missing Debian packages for building or importing FFCV."""
    return [package for _, found, package in system_parts() if not found]


def check_machine() -> list[Check]:
    """Check cores, memory, disks and GPUs."""
    cores = len(os.sched_getaffinity(0))
    limit = cgroup("cpu.max").split()
    quota = (
        f", limited to {int(limit[0]) / int(limit[1]):.1f}"
        if limit[:1] not in ([], ["max"])
        else ""
    )
    ram = memory()
    cache = Path(os.environ.get("UNMIX_CACHE") or os.environ.get("XDG_CACHE_HOME") or Path.home())
    while not cache.exists():
        cache = cache.parent
    checks = [
        Check("cores", True, f"{cores}{quota}", False),
        Check("RAM", ram > 4, f"{ram:.1f} GiB free", False, "free 4 GiB of memory"),
    ]
    for name, path in (("disk, runs", ROOT), ("disk, cache", cache)):
        free = shutil.disk_usage(path).free / 2**30
        fix = f"free 2 GiB below {path}" + ("; or set UNMIX_CACHE" if path is cache else "")
        checks.append(Check(name, free > 2, f"{free:.1f} GiB free", False, fix))
    query = "--query-gpu=name,memory.total"
    gpus = output("nvidia-smi", query, "--format=csv,noheader").splitlines() or ["none"]
    checks += [
        Check(f"GPU {i}" if len(gpus) > 1 else "GPU", True, gpu, False)
        for i, gpu in enumerate(gpus)
    ]
    return checks


def is_installed(name: str) -> bool:
    """Whether an import would find ``name``."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def release(name: str) -> str:
    """Return the version of an installed distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "installed"


def check_pixels(image: object) -> None:
    """Raise ``RuntimeError`` unless ``image`` is the decoded JPEG, within 4 grey levels."""
    import numpy as np

    pixels = np.asarray(image)
    if pixels.shape != (16, 16, 3) or np.abs(pixels - np.array(COLOR)).max() > 4:
        raise RuntimeError("it decodes a test image wrongly")


def ffcv_fix() -> str:
    """Return the command that installs FFCV here."""
    names = " ".join(missing_system_packages())
    return f"{apt(names)} && make ffcv" if names else "make ffcv"


def loads(library: str) -> bool:
    """Whether a shared library can be loaded."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def apt(package: str) -> str:
    """Return the command that installs Debian packages."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    install = f"apt-get install -y --no-install-recommends {package}"
    return f"{sudo}apt-get update && {sudo}{install}"


def output(*command: str) -> str:
    """Return the output of a command; empty if it is missing or fails."""
    try:
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def cgroup(name: str) -> str:
    """Return a limit of the container; empty if there is none."""
    try:
        return (Path("/sys/fs/cgroup") / name).read_text().strip()
    except OSError:
        return ""


def memory() -> float:
    """Return the GiB of memory that are available to this process."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    limit, used = cgroup("memory.max"), cgroup("memory.current")
    if limit.isdigit() and used.isdigit():
        free = min(free, int(limit) - int(used))
    return free / 2**30


def reason(error: Exception) -> str:
    """Return an error's first line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]
