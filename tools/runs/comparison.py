"""Compare groups of runs that differ only in the seed, to measure the effect of a mixture.

The base of a group has the same method, data and budget, without the mixture. The standard error
of their difference is that of the paired differences if both groups have the same seeds, else
Welch's. The difference is resolved if Student's 95 % interval does not contain 0.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from scipy.special import stdtrit

from tools.config.config import MIX_NUMBERS
from tools.runs.scores import Scored, Settings, differing

MIXING = (
    *("mix", "mix_prob", "mix_beta", "mix_draw", "mix_groups", "mix_terms"),
    *sorted({*MIX_NUMBERS.values()}),
)
"""Settings of the mixture."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the seed, in the order of their seeds."""

    runs: tuple[Scored, ...]

    @property
    def settings(self) -> Settings:
        """The settings that the runs share."""
        return self.runs[0].settings

    @property
    def values(self) -> list[float]:
        """Their scores."""
        return [run.value for run in self.runs]

    @property
    def mean(self) -> float:
        """Mean score over the seeds."""
        return statistics.mean(self.values)

    @property
    def spread(self) -> float | None:
        """Standard deviation over the seeds, with n - 1; None for one seed."""
        return statistics.stdev(self.values) if len(self.runs) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A group's mean minus its base's."""

    value: float
    error: float | None
    """Standard error over the seeds; None (unknown) if one of the groups has one seed."""
    kind: Literal["paired", "welch", "unknown"]
    freedom: float | None = None
    """Degrees of freedom of the standard error."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval; None without an estimate of chance: one seed, or no spread."""
        if not self.error or self.freedom is None:
            return None
        reach = float(stdtrit(self.freedom, 0.975)) * self.error
        return self.value - reach, self.value + reach

    @property
    def resolved(self) -> bool:
        """Whether the interval does not contain 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)


def difference(group: Group, base: Group) -> Difference:
    """Return the difference of means and its standard error."""
    value = group.mean - base.mean
    if min(len(group.runs), len(base.runs)) < 2:
        return Difference(value, None, "unknown")
    if [run.seed for run in group.runs] == [run.seed for run in base.runs]:
        pairs = [a - b for a, b in zip(group.values, base.values, strict=True)]
        return Difference(value, _error_of_mean(pairs), "paired", len(pairs) - 1)
    sides = [(_error_of_mean(side.values), len(side.runs)) for side in (group, base)]
    error = math.hypot(*(e for e, _ in sides))
    share = sum(e**4 / (n - 1) for e, n in sides)  # Welch-Satterthwaite
    return Difference(value, error, "welch", error**4 / share if share else 1.0)


def _error_of_mean(values: Sequence[float]) -> float:
    """Return the standard error of a mean; 0 if the values are equal but for rounding."""
    error = statistics.stdev(values) / math.sqrt(len(values))
    return error if error > 1e-12 else 0.0


def group(runs: Iterable[Scored]) -> list[Group]:
    """Group the runs that differ only in the seed, in the order of their first runs.

    Raises:
        ValueError: two runs have the same settings and seed.
    """
    return [Group(tuple(some)) for some in by_seed(runs)]


class Seeded(Protocol):
    """A run."""

    @property
    def run(self) -> Path:
        """Where it is."""

    @property
    def settings(self) -> Settings:
        """The settings that its result depends on, without the seed."""

    @property
    def seed(self) -> int:
        """Its seed."""


Run = TypeVar("Run", bound=Seeded)


def by_seed(runs: Iterable[Run]) -> list[list[Run]]:
    """Gather the runs that differ only in the seed, in the order of their seeds.

    Raises:
        ValueError: two runs have the same settings and seed.
    """
    gathered: dict[str, list[Run]] = {}
    for run in runs:
        gathered.setdefault(repr(sorted(run.settings.items())), []).append(run)
    every = [sorted(some, key=lambda r: r.seed) for some in gathered.values()]
    for one in every:
        for a, b in itertools.pairwise(one):
            if a.seed == b.seed:
                raise ValueError(
                    f"{a.run} and {b.run} have the same settings and seed {a.seed}, so they are "
                    "not two seeds: leave one out"
                )
    return every


def base_of(one: Group, groups: Sequence[Group], base: Settings) -> Group | None:
    """Return the group with the settings ``base`` that otherwise differs least from this one.

    It has the same method, data and epochs. None if there is no such group, or if two groups differ
    equally.
    """
    if _has(one, base):
        return None
    wanted = {name: one.settings[name] for name in ("method", "data", "epochs")} | base
    found = [g for g in groups if _has(g, wanted)]
    far = [(len(beyond(one, g)), len(differing([one.settings, g.settings]))) for g in found]
    return found[far.index(min(far))] if far and far.count(min(far)) == 1 else None


def _has(one: Group, settings: Settings) -> bool:
    return all(str(one.settings.get(name)) == str(value) for name, value in settings.items())


def beyond(one: Group, base: Group) -> list[str]:
    """Return the settings that differ between two groups, except the mixture's."""
    names = differing([one.settings, base.settings])
    return [name for name in names if name.split(".")[0] not in MIXING]


def name_of(one: Settings, every: Sequence[Settings]) -> str:
    """Return a group's name: method, mixture, and settings that differ between similar groups."""
    method, mix = one["method"], one["mix"]
    same_method = [settings for settings in every if settings["method"] == method]
    same_mix = [s for s in same_method if s["mix"] == mix]
    varying = [n for n in differing(same_method) if n.split(".")[0] not in MIXING]
    varying += [n for n in differing(same_mix) if n.split(".")[0] in MIXING]
    varying += [n for n in ("data", "epochs") if len({str(s[n]) for s in every}) > 1]
    extra = [f"{n} {one.get(n)}" for n in dict.fromkeys(varying)]
    return ", ".join([method if mix == "none" else f"{method} + {mix}", *extra])
