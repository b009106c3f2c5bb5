"""The part of a run that bounds its speed, with the arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Bottleneck:
    """Compares end to end with what the loader's and the step's own rates allow.

    Rates are source images/s over all processes, ``stages`` seconds of a step of ``batch_size``
    images. ``shared``: loader and step work on the same cores, or both on the GPU.
    """

    loader: float
    step: float
    end_to_end: float
    stages: dict[str, float]
    shared: bool
    on_gpu: bool
    workers: int
    batch_size: int

    @property
    def expected(self) -> float:
        """The rate end to end if nothing but loader and step took time."""
        if self.shared:
            return 1 / (1 / self.loader + 1 / self.step)
        return min(self.loader, self.step)

    @property
    def formula(self) -> str:
        """How ``expected`` follows from the rates."""
        return "1/(1/loader + 1/step)" if self.shared else "min(loader, step)"

    @property
    def part(self) -> str:
        """The bottleneck in a word or two."""
        return "the network" if self.step <= self.loader else self.slowest_data_stage()

    def slowest_data_stage(self) -> str:
        """Return what the loader spends most on."""
        s = self.stages
        read, decode = s.get("read", 0.0), s.get("decode", 0.0)
        shares = {
            "reading": read,
            "decode": decode - read,
            "crop": s["decode_crop"] - decode,
            "the finisher": s["finish"] + s.get("mixture", 0.0),
            "the copy to the device": s.get("host_to_device", 0.0),
        }
        return max(shares, key=lambda name: shares[name])

    def sentence(self) -> str:
        """Return the verdict: what bounds the run, how close it comes, what would help."""
        return (
            f"bound by {self.part}: {self._why()}. End to end {number(self.end_to_end)} images/s, "
            f"{self.end_to_end / self.expected:.0%} of {self.formula} = {number(self.expected)}. "
            f"{self._advice()}{self._cold()}"
        )

    def _why(self) -> str:
        if self.shared:
            where = "GPU's" if self.on_gpu else "cores'"
            network = 1 / self.step / (1 / self.step + 1 / self.loader)
            return f"of the {where} time for an image {network:.0%} is the step's, the loader's " \
                f"{1 - network:.0%}"  # fmt: skip
        slow, fast = ("loader", "step") if self.loader < self.step else ("step", "loader")
        ratio = max(self.loader, self.step) / min(self.loader, self.step)
        return f"the {fast} alone is {ratio:.2g} times as fast as the {slow} alone"

    def _cold(self) -> str:
        """What a set that is larger than the memory would be bound by."""
        if not self.stages.get("read_cold"):
            return ""
        rate = self.batch_size / self.stages["read_cold"]
        bound = "also" if rate < self.end_to_end else "not"
        return (
            f" Data not in memory would {bound} be bound by reading: one thread makes "
            f"{number(rate)} images/s."
        )

    def _advice(self) -> str:
        enough = math.ceil(self.workers * self.step / self.loader)
        if self.shared and self.on_gpu:
            return "Decoding on the host would leave the GPU to the step."
        if self.shared:
            own = "its" if enough == 1 else "their"
            return (
                f"On cores of {own} own, {count(enough)} would keep up with the step and the run "
                f"make up to {number(self.step)}."
            )
        if self.loader < self.step:
            return f"{count(enough - self.workers, 'more ')} would balance it."
        return f"{count(max(enough, 1))} of the {self.workers} would do."


def count(workers: int, more: str = "") -> str:
    """Return "1 worker", "2 more workers"."""
    return f"{workers} {more}worker{'' if workers == 1 else 's'}"


def number(rate: float) -> str:
    """Return a rate with three figures or all before the point."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
