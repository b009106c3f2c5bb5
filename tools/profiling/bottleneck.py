"""The bottleneck of a run, from its measured rates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipelines.system.units import counted


@dataclass(frozen=True)
class Bottleneck:
    """The end-to-end rate, compared with the bound from the rates of loader and step alone.

    Rates are source images/s over all processes; ``stages`` are seconds of a step of ``batch_size``
    images. ``shared``: loader and step use the same cores, or both use the GPU.
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
        """The end-to-end rate if only loader and step took time."""
        if self.shared:
            return 1 / (1 / self.loader + 1 / self.step)
        return min(self.loader, self.step)

    @property
    def formula(self) -> str:
        """The formula of ``expected``."""
        return "1/(1/loader + 1/step)" if self.shared else "min(loader, step)"

    @property
    def part(self) -> str:
        """The bottleneck in a word or two."""
        return "the training step" if self.step <= self.loader else self.slowest_data_stage()

    def slowest_data_stage(self) -> str:
        """Return the loader's slowest stage."""
        s = self.stages
        read, decode = s.get("read", 0.0), s.get("decode", 0.0)
        shares = {
            "reading": read,
            "decode": decode - read,
            "crop": s["decode_crop"] - decode,
            "augmentation": s["finish"] + s.get("mixture", 0.0),
            "the copy to the device": s.get("host_to_device", 0.0),
        }
        return max(shares, key=lambda name: shares[name])

    def sentence(self) -> str:
        """Return the bottleneck, the share of the bound that is reached, and advice, as text."""
        return (
            f"bound by {self.part}: {self._why()}. End to end {number(self.end_to_end)} images/s, "
            f"{self.end_to_end / self.expected:.0%} of {self.formula} = {number(self.expected)}. "
            f"{self._advice()}{self._cold()}{self._fetch()}"
        )

    def _why(self) -> str:
        if self.shared:
            where = "GPU's" if self.on_gpu else "cores'"
            own = 1 / self.step / (1 / self.step + 1 / self.loader)
            return f"of the {where} time for an image {own:.0%} is the step's, the loader's " \
                f"{1 - own:.0%}"  # fmt: skip
        slow, fast = ("loader", "step") if self.loader < self.step else ("step", "loader")
        ratio = max(self.loader, self.step) / min(self.loader, self.step)
        return f"the {fast} alone is {ratio:.2g} times as fast as the {slow} alone"

    def _cold(self) -> str:
        """Return whether reading would bound a data set larger than the memory."""
        if not self.stages.get("read_cold"):
            return ""
        rate = self.batch_size / self.stages["read_cold"]
        bound = "also" if rate < self.end_to_end else "not"
        return (
            f" Data not in memory would {bound} be bound by reading: one thread makes "
            f"{number(rate)} images/s."
        )

    def _fetch(self) -> str:
        """Return whether fetching would bound remote data of which nothing is here yet."""
        if not self.stages.get("fetch"):
            return ""
        rate = self.batch_size / self.stages["fetch"]
        if rate >= self.end_to_end:
            return f" Fetching does not bound the run: it makes {number(rate)} images/s."
        return (
            " While data is fetched from the store, fetching bounds the run: it makes "
            f"{number(rate)} images/s. More --fetch-connections hide more of the store's latency, "
            "and --order blocks needs fewer requests."
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
    return counted(workers, f"{more}worker")


def number(rate: float) -> str:
    """Format a rate with three significant figures, or as a whole number from 100 on."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
