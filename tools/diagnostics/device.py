"""The code for a GPU, proved on this machine in about a minute: ``doctor --device``."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch

from models.modules.batchnorm_group import GROUP_NORM
from models.modules.batchnorm_sync import SYNC_NORM
from pipelines.augment.build import FUSED_AUGMENTATION, augment_sample
from pipelines.augment.cpu import CpuAugmenter
from pipelines.decoders.dali_gpu import DALI_ON_GPU
from pipelines.system.device_path import DevicePath
from pipelines.system.transfer import SIDE_STREAM
from tools.diagnostics.small_loop import SmallLoop

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
HOST_AUGMENTATION = DevicePath(
    "host augmentation",
    fast=lambda device: augment_sample(CpuAugmenter(1), device),
    plain=FUSED_AUGMENTATION.plain,
    tolerance=1e-4,
)
PATHS = (FUSED_AUGMENTATION, GROUP_NORM, SYNC_NORM, SIDE_STREAM, DALI_ON_GPU)
STEPS = 20
CALLS = 5
"""Calls of which the median is a time."""


@dataclass(frozen=True)
class Result:
    """A line of the table."""

    name: str
    state: str
    """used, fallen back, ok, FAILED or not run."""
    difference: float | None = None
    """Largest difference from plain PyTorch (images from DALI: grey levels)."""
    milliseconds: float | None = None
    """Time of the sample by the path; ``plain_milliseconds``: by plain PyTorch."""
    plain_milliseconds: float | None = None
    found: str = ""
    """The reason, or what was measured."""


def check_device() -> list[Result]:
    """Run everything that this machine has; nothing here raises."""
    if not torch.cuda.is_available():
        reason = "torch sees no GPU"
        here = [*(Result(path.name, "not run", found=reason) for path in PATHS)]
        return [
            *here,
            on_host(),
            Result("law 8", "not run", found=reason),
            *small_loop(CPU),
            whole_run(),
        ]
    device = torch.device("cuda", torch.cuda.current_device())
    made = [of_path(path, device) for path in PATHS if path is not DALI_ON_GPU or has_dali()]
    return [*made, on_host(), *small_loop(device), whole_run()]


def has_dali() -> bool:
    """Whether DALI is installed; without it, there is no path of its own to prove."""
    try:
        return find_spec("nvidia.dali") is not None
    except ModuleNotFoundError:  # no package of that name, such as nvidia
        return False


def of_path(path: DevicePath, device: torch.device) -> Result:
    """Compare a path with plain PyTorch, and time both on the sample."""
    try:
        verdict = path.compare(device)
    except RuntimeError as error:  # the device is broken
        return Result(path.name, "FAILED", found=str(error).splitlines()[0])
    plain = milliseconds(lambda: path.plain(device), device)
    if not verdict.used:
        return Result(path.name, "fallen back", verdict.difference, None, plain, verdict.reason)
    fast = milliseconds(lambda: path.fast(device), device)
    return Result(path.name, "used", verdict.difference, fast, plain)


def on_host() -> Result:
    """Compare the host's augmentation, which nothing replaces, with plain PyTorch."""
    found = of_path(HOST_AUGMENTATION, CPU)
    return found if found.state == "used" else replace(found, state="FAILED")


def milliseconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a call, launches included, once it has been called."""
    work()
    took = []
    for _ in range(CALLS):
        wait_for(device)
        began = time.perf_counter()
        work()
        wait_for(device)
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)[CALLS // 2]


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def no_waiting(device: torch.device) -> Iterator[None]:
    """Let operations that make the host wait for the device raise."""
    if device.type == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def small_loop(device: torch.device) -> list[Result]:
    """Check law 8 on the steps of a small training loop, and measure the loader's overlap."""
    results = []
    try:
        with SmallLoop(device) as loop:
            if device.type == "cuda":
                results.append(_law_8(loop, device))
            results.append(_overlap(loop, device))
    except Exception as error:  # whatever it is, the other lines are worth having
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        results.append(Result("loader's overlap", "FAILED", found=said))
    return results


def _law_8(loop: SmallLoop, device: torch.device) -> Result:
    loop.step(0)  # compiles, chooses and compares
    try:
        for step in range(1, STEPS):
            decoded = loop.decode(step)
            with no_waiting(device):
                loop.learn(loop.finish(decoded))
    except RuntimeError as error:
        return Result("law 8", "FAILED", found=str(error).splitlines()[0])
    return Result("law 8", "ok", found=f"no step of {STEPS - 1} waited for the device")


def _overlap(loop: SmallLoop, device: torch.device) -> Result:
    """Compare a step with its loader to the loader alone and to the computation alone."""
    steps = STEPS if device.type == "cuda" else STEPS // 4
    batch = loop.step(0)

    def made() -> None:
        for _ in loop.batches(0, steps):
            pass

    def learned() -> None:
        for _ in range(steps):
            loop.learn(batch)

    def trained() -> None:
        for each in loop.batches(0, steps):
            loop.learn(each)

    alone, compute, both = (_ms_a_step(work, steps, device) for work in (made, learned, trained))
    hidden = min(max((alone + compute - both) / min(alone, compute), 0), 1)
    found = (
        f"ms a step: {both:.1f}; batches alone {alone:.1f}, computation alone {compute:.1f}; "
        f"{hidden:.0%} of the shorter is hidden"
    )
    return Result("loader's overlap", "ok", found=found)


def _ms_a_step(work: Callable[[], None], steps: int, device: torch.device) -> float:
    wait_for(device)
    began = time.perf_counter()
    work()
    wait_for(device)
    return 1000 * (time.perf_counter() - began) / steps


def whole_run() -> Result:
    """Train for 20 steps by ``train.py`` on the embedded photographs."""
    name = f"{STEPS}-step run"
    with tempfile.TemporaryDirectory() as folder:
        words = [
            *(sys.executable, str(ROOT / "train.py"), "--recipe", "photos", "--method", "moco"),
            *("--mix", "unmix", "--limit-steps", str(STEPS), "--log-every", str(STEPS)),
            *("--knn-every", "0", "--no-report", "--output", folder, "--name", "run"),
        ]
        began = time.perf_counter()
        try:
            run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        except subprocess.TimeoutExpired:
            return Result(name, "FAILED", found="it took more than 300 seconds")
        took = time.perf_counter() - began
        if run.returncode:
            last = (run.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return Result(name, "FAILED", found=f"status {run.returncode}: {last}")
        lines = Path(folder, "run", "metrics.jsonl").read_text().splitlines()
        loss = json.loads(lines[-1])["loss"]
    finite = loss is not None and math.isfinite(loss)
    found = (
        f"loss {loss:.3f} in {took:.0f} s, start included" if finite else "the loss is not finite"
    )
    return Result(name, "ok" if finite else "FAILED", found=found)


def as_text(results: Sequence[Result]) -> str:
    """Return the table; times are of a small sample, so they are times of launches."""
    head = ("", "state", "largest difference", "ms (launches)", "plain ms", "found")
    rows = [head, *(_cells(result) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    lines = []
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True))
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cells(result: Result) -> tuple[str, ...]:
    numbers = (
        "" if result.difference is None else f"{result.difference:.1e}",
        *("" if x is None else f"{x:.2f}"
          for x in (result.milliseconds, result.plain_milliseconds)),
    )  # fmt: skip
    return (result.name, result.state, *numbers, result.found)


def as_json(results: Sequence[Result]) -> str:
    """Return the results, the device and whether all is well, as JSON."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    lines = [asdict(result) for result in results]
    for line in lines:
        if line["difference"] is not None and not math.isfinite(line["difference"]):
            line["difference"] = None
    whole = {"ok": succeeded(results), "device": name, "torch": torch.__version__}
    return json.dumps({**whole, "results": lines}, indent=2)


def succeeded(results: Sequence[Result]) -> bool:
    """Whether nothing failed; a path that fell back is no failure, for runs work without it."""
    return all(result.state != "FAILED" for result in results)
