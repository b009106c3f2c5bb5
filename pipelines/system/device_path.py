"""Fast implementations that prove themselves on the user's device before they are used.

A ``DevicePath`` is a hand-written way to compute something on a GPU, beside the plain PyTorch of
the same thing. At its first use on a device both run once on a few kilobytes. If the fast one is
missing, raises, or differs by more than its tolerance, the plain one is used from then on, and one
warning says so. The comparison waits for the device, once in a process: before the first step, or
in it (law 8 allows it there).

``choose`` sets what ``--device-paths`` says for the whole process:

======== ==================================================================
auto     the fast path where it has proved itself (default)
plain    PyTorch alone; nothing is compared
fused    the fast path, or ``PathRefused``: it does not fall back
======== ==================================================================
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import RLock

import torch
import torch.distributed as dist
from torch import Tensor

from pipelines.settings import DevicePaths
from pipelines.system.tf32 import exact_products

log = logging.getLogger(__name__)

Run = Callable[[torch.device], Sequence[Tensor]]
"""Runs a small sample, the same each time, on a device; returns its results."""


class PathRefused(ValueError):
    """``--device-paths fused``, and a path cannot be used."""


@dataclass(frozen=True)
class Verdict:
    """Whether a path is used on a device, and why."""

    path: str
    used: bool
    difference: float | None = None
    """Largest difference from plain PyTorch; None if there was nothing to compare."""
    reason: str = ""
    """Why the path is not used; empty if it is."""

    def text(self) -> str:
        """Return the verdict as "fused augmentation: used, differs by 1.2e-07"."""
        if not self.used:
            return f"{self.path}: the plain path, {self.reason}"
        differs = "" if self.difference is None else f", differs by {self.difference:.1e}"
        return f"{self.path}: used{differs}"


@dataclass(eq=False)
class DevicePath:
    """A fast implementation of something, and plain PyTorch's, compared at the first use.

    Args:
        name: what a user calls it, as "fused augmentation".
        fast: runs the fast implementation on a small sample.
        plain: runs the reference on the same sample.
        tolerance: largest absolute difference of any value of the results.
        missing: returns why the fast one cannot even be tried, or an empty string.
        together: all processes of the group decide alike, because a collective hangs on it or
            their results would differ; then all of them must ask at the same place.
    """

    name: str
    fast: Run
    plain: Run
    tolerance: float
    missing: Callable[[], str] = lambda: ""
    together: bool = False
    _verdicts: dict[torch.device, Verdict] = field(default_factory=dict, init=False, repr=False)

    def usable(self, device: torch.device) -> bool:
        """Whether to use the fast path on ``device``; the first call there compares.

        Raises:
            PathRefused: it cannot be used, and ``--device-paths fused`` forbids the fallback.
        """
        if _state.mode == "plain":
            return False
        known = self._verdicts.get(device)
        return (self.verdict(device) if known is None else known).used

    def verdict(self, device: torch.device) -> Verdict:
        """Return what was found on ``device``; the first call there compares.

        On a machine that lacks the device nothing is compared, and nothing is kept.

        Raises:
            PathRefused: as in ``usable``.
        """
        if _state.mode == "plain":
            return Verdict(self.name, False, reason="as --device-paths plain says")
        with _lock:
            if device in self._verdicts:
                return self._verdicts[device]
            if device.type == "cuda" and not torch.cuda.is_available():
                reason = self.missing()
                return Verdict(self.name, not reason, reason=reason)
            verdict = self._agreed(self.compare(device), device)
            if not verdict.used and _state.mode == "fused":
                raise PathRefused(
                    f"--device-paths fused: {verdict.path} cannot be used on {device}: "
                    f"{verdict.reason}; --device-paths auto falls back to plain PyTorch"
                )
            self._verdicts[device] = verdict
        if not verdict.used and _first_to_say(self.name):
            log.warning(
                "%s: %s; the plain path is used; --device-paths plain silences this",
                *(verdict.path, verdict.reason),
            )
        return verdict

    def compare(self, device: torch.device) -> Verdict:
        """Run both implementations on ``device`` now, whatever was found before.

        Raises:
            RuntimeError: plain PyTorch failed as well, after the fast path had: the device itself
                is broken from then on, as by an illegal address.
        """
        if reason := self.missing():
            return Verdict(self.name, False, reason=f"it is missing: {reason}")
        with torch.no_grad(), exact_products():
            plain = self.plain(device)
            try:
                difference = largest_difference(self.fast(device), plain)
            except Exception as error:
                self._check_device(device, error)
                said = str(error).strip().splitlines() or [""]
                reason = f"it raised {type(error).__name__}: {said[0]}"
                return Verdict(self.name, False, reason=reason)
        if difference <= self.tolerance:
            return Verdict(self.name, True, difference)
        reason = f"it differs by {difference:.1e}, and {self.tolerance:.0e} is allowed"
        return Verdict(self.name, False, difference, reason)

    def _check_device(self, device: torch.device, error: Exception) -> None:
        try:
            torch.zeros(1, device=device).add_(1).item()
        except Exception as broken:
            raise RuntimeError(
                f"{self.name} broke the device ({error}); start again with --device-paths plain"
            ) from broken

    def _agreed(self, verdict: Verdict, device: torch.device) -> Verdict:
        """Return the verdict of all processes, if they decide together."""
        if not self.together or not _has_group():
            return verdict
        all_use = torch.tensor([int(verdict.used)], device=device)
        dist.all_reduce(all_use, dist.ReduceOp.MIN)
        if verdict.used and not int(all_use):
            return Verdict(self.name, False, verdict.difference, "another process cannot use it")
        return verdict

    def forget(self) -> None:
        """Let the next use compare again."""
        self._verdicts.clear()


@dataclass
class _State:
    mode: DevicePaths = "auto"
    said: set[str] = field(default_factory=set)


_state = _State()
_lock = RLock()


def choose(mode: DevicePaths) -> None:
    """Set what ``--device-paths`` says, for this process; call it before the first use."""
    _state.mode = mode


def chosen() -> DevicePaths:
    """Return what ``choose`` set."""
    return _state.mode


@contextmanager
def only(mode: DevicePaths, paths: Iterable[DevicePath] = ()) -> Iterator[None]:
    """Choose inside the context; ``paths`` are compared anew in it and forgotten after it."""
    before, said, known = _state.mode, set(_state.said), list(paths)
    for path in known:
        path.forget()
    _state.mode = mode
    _state.said.difference_update(path.name for path in known)
    try:
        yield
    finally:
        _state.mode, _state.said = before, said
        for path in known:
            path.forget()


def summary(paths: Iterable[DevicePath], device: torch.device) -> str:
    """Return the verdicts of ``paths`` on ``device`` as one line, for the head of a run.

    Paths that nothing has used yet are compared. All processes call it.
    """
    return "; ".join(path.verdict(device).text() for path in paths)


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest absolute difference of two lists of tensors; infinite if one has NaN.

    Equal infinities, and NaN in the same places of both, do not differ.

    Raises:
        ValueError: numbers or shapes of the tensors differ.
    """
    shapes = [[tuple(x.shape) for x in some] for some in (ours, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"results of shapes {shapes[0]} instead of {shapes[1]}")
    most = 0.0
    for a, b in zip(ours, theirs, strict=True):
        a, b = a.detach().double(), b.detach().to(a.device).double()
        same = (a == b) | (a.isnan() & b.isnan())
        apart = (a - b).abs().masked_fill(same, 0).nan_to_num(nan=math.inf, posinf=math.inf)
        most = max(most, float(apart.max()) if apart.numel() else 0.0)
    return most


def _has_group() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _first_to_say(name: str) -> bool:
    """Whether no process of the run has warned of this path yet."""
    if name in _state.said:
        return False
    _state.said.add(name)
    if not _has_group():
        return True
    from torch.distributed.distributed_c10d import _get_default_store

    return bool(_get_default_store().add(f"unmix/device-path/{name}", 1) == 1)
