"""Runs beside one another: groups that differ in the seed alone, and what a mixture is worth.

The base of a group is the one with the same method, data and budget and without the mixture. Their
difference has a standard error over seeds: of the differences where both have the same seeds, else
Welch's. It is unresolved unless Student's 95 % interval leaves out 0.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from scipy.special import stdtrit

from models.methods import METHODS
from pipelines.mixtures.unmix import UN_MIX
from tools.config.cli import from_saved, to_dict
from tools.config.config import Config
from tools.runs.metrics import read_metrics

Settings = dict[str, Any]
"""Settings by their dotted names, as 'lr' and 'clim.rule'."""

ONLINE = "online"
"""Name of the score that a run measures while it trains."""
NOT_THE_PROTOCOL = {"step", "epoch", "seed", "world_size", "time", "commit", "command"}
NOT_THE_PROTOCOL |= {"origin", "loss"}
"""Parts of a line of eval.jsonl that may differ between runs scored alike."""
SCORES = ("_top1", "_top5", "ap", "ap50", "ap75")
"""How the names of scores end; higher is better, in [0, 1]."""
MIXING = ("mix", "mix_prob", "mix_beta", "mix_draw", "mix_groups", "clim", "im")
"""Settings of the mixture."""


@dataclass(frozen=True)
class Scored:
    """A run with one of its scores."""

    run: Path
    settings: Settings
    """What the result depends on beside the seed."""
    seed: int
    protocol: Settings
    """How and on what data it was scored."""
    step: int
    value: float
    """In [0, 1]."""


@dataclass(frozen=True)
class Group:
    """Runs that differ in the seed alone, in the order of their seeds."""

    runs: tuple[Scored, ...]

    @property
    def settings(self) -> Settings:
        """What the runs share."""
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
        """Standard deviation over the seeds, of n - 1; None for one seed."""
        return statistics.stdev(self.values) if len(self.runs) > 1 else None


@dataclass(frozen=True)
class Difference:
    """A group's mean minus its base's."""

    value: float
    error: float | None
    """Standard error over the seeds; None: unknown, one of the groups has one seed."""
    kind: Literal["paired", "welch", "unknown"]
    freedom: float | None = None
    """Degrees of freedom of the standard error."""

    @property
    def interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval; None without a standard error."""
        if self.error is None or self.freedom is None:
            return None
        reach = float(stdtrit(self.freedom, 0.975)) * self.error
        return self.value - reach, self.value + reach

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out 0."""
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
    return statistics.stdev(values) / math.sqrt(len(values))


def read_config(run: Path) -> Config:
    """Return the settings in a run's folder; the defaults it had where it is older than a setting.

    Raises:
        ValueError: there is no such run, or its config.yaml is not one.
    """
    path = run / "config.yaml"
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{run} is not the folder of a run: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no settings")
    return from_saved(values, str(path))


def settings_of(config: Config) -> Settings:
    """Return the settings that a result depends on beside the seed."""
    leave_out = {f.name for f in fields(Config) if f.metadata.get("free")} - {"data", "epochs"}
    leave_out |= {"seed"} | _without_effect(config.mix)
    return {
        f"{name}.{key}" if key else name: part
        for name, value in to_dict(config).items()
        if name not in leave_out
        for key, part in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _without_effect(mix: str) -> set[str]:
    """Return the settings of mixtures that this one does not read."""
    if mix == "none":
        return {"mix_prob", "mix_beta", "mix_draw", "mix_groups"}
    if mix not in UN_MIX:
        return {"mix_prob", "mix_beta"}
    return set() if mix == "unmix" else {"mix_prob"}


def read_scores(run: Path, protocol: str, score: str | None = None) -> list[Scored]:
    """Return a run's scores by a protocol, the newest first; none if it was not scored so.

    A network that eval.py trained from other weights than the run's is not the run's score.

    ``protocol`` is ``online``, of which the last counts, or that of lines of eval.jsonl;
    ``score`` names the number (default: the first that ends as in ``SCORES``).

    Raises:
        ValueError: no such run, or no such number.
    """
    config = read_config(run)
    if protocol == ONLINE:
        lines = _online(run, config)[-1:]
    else:
        lines = [x for x in read_metrics(run / "eval.jsonl") if x.get("protocol") == protocol]
        lines = [x for x in lines if x.get("weights", "run") == "run"]
    found = []
    for line in reversed(lines):
        numbers = [name for name in line if name.endswith(SCORES)]
        name = score or next(iter(numbers), "")
        if not isinstance(line.get(name), int | float):
            raise ValueError(f"{run}: no score {name!r} by {protocol}, but {', '.join(numbers)}")
        apart = NOT_THE_PROTOCOL.union(numbers)
        how = {"score": name} | {key: value for key, value in line.items() if key not in apart}
        if encoder_of(line) == METHODS[config.method].method.scored:
            how.pop("encoder", None)  # each method by the encoder of its paper: scored alike
        else:
            how["encoder"] = encoder_of(line)
        settings = settings_of(config)
        found.append(Scored(run, settings, config.seed, how, line["step"], line[name]))
    return found


def encoder_of(line: Mapping[str, Any]) -> str:
    """Return which encoder a line of eval.jsonl scored; by default the one that learns."""
    return line.get("encoder", "online")


def _online(run: Path, config: Config) -> list[dict[str, Any]]:
    """Return the scores in metrics.jsonl as lines of eval.jsonl would hold them."""
    how: dict[str, Any] = {"protocol": ONLINE, "data": config.data, "val_data": config.val_data}
    if config.subset is not None:
        how |= {"subset": config.subset, "subset_seed": config.subset_seed}
    return [
        how | {name: line[name] for name in ("step", "knn_top1", "knn_top5") if name in line}
        for line in read_metrics(run / "metrics.jsonl")
        if line.get("knn_top1") is not None
    ]


def alike(candidates: Sequence[Sequence[Scored]]) -> list[Scored]:
    """Return one score of each run: by one protocol, at the last step that runs of a budget share.

    ``candidates`` holds each run's scores, the newest first.

    Raises:
        ValueError: the runs were scored by other protocols, on other data, or after other numbers
            of steps of the same budget; the text names two runs and what differs.
    """
    for wanted in candidates[0]:
        same = [[s for s in scores if s.protocol == wanted.protocol] for scores in candidates]
        chosen = _at_common_steps(same)
        if chosen:
            return chosen
    newest = [scores[0] for scores in candidates]
    for a, b in itertools.combinations(newest, 2):
        names = differing([a.protocol, b.protocol])
        said = [f"{n} {a.protocol.get(n)} and {b.protocol.get(n)}" for n in names]
        if a.step != b.step and _budget(a) == _budget(b):
            said.append(f"step {a.step} and {b.step} of the same budget")
        if said:
            raise ValueError(
                f"{a.run} and {b.run} were not scored alike ({'; '.join(said)}): "
                "score both with the same flags of eval.py, or leave one out"
            )
    raise ValueError("no score is common to all runs: score them alike with eval.py")


def _at_common_steps(candidates: Sequence[Sequence[Scored]]) -> list[Scored] | None:
    """Return the scores at the last step common to the runs of each budget; None without one."""
    if not all(candidates):
        return None
    common: dict[tuple[Any, ...], set[int]] = {}
    for scores in candidates:
        steps = {score.step for score in scores}
        common[_budget(scores[0])] = common.get(_budget(scores[0]), steps) & steps
    if not all(common.values()):
        return None
    return [
        next(score for score in scores if score.step == max(common[_budget(score)]))
        for scores in candidates
    ]


def _budget(scored: Scored) -> tuple[Any, ...]:
    return tuple(scored.settings[name] for name in ("data", "subset", "epochs", "batch_size"))


def differing(many: Iterable[Settings]) -> list[str]:
    """Return the names of settings that are not the same in all."""
    many = list(many)
    names = dict.fromkeys(name for settings in many for name in settings)
    return [n for n in names if any(s.get(n) != many[0].get(n) for s in many)]


def group(runs: Iterable[Scored]) -> list[Group]:
    """Put runs that differ in the seed alone together; groups come in the order of their runs.

    Raises:
        ValueError: two runs have the same settings and seed.
    """
    gathered: dict[str, list[Scored]] = {}
    for run in runs:
        gathered.setdefault(repr(sorted(run.settings.items())), []).append(run)
    groups = [Group(tuple(sorted(some, key=lambda r: r.seed))) for some in gathered.values()]
    for one in groups:
        for a, b in zip(one.runs, one.runs[1:], strict=False):
            if a.seed == b.seed:
                raise ValueError(
                    f"{a.run} and {b.run} have the same settings and seed {a.seed}, so they are "
                    "not two seeds: leave one out"
                )
    return groups


def base_of(one: Group, groups: Sequence[Group], base: Settings) -> Group | None:
    """Return the group with the settings ``base`` that is otherwise nearest to this one, if any.

    It has the same method, data and budget. None as well where two are equally near.
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
    """Return the settings that differ between two groups beside the mixture's."""
    names = differing([one.settings, base.settings])
    return [name for name in names if name.split(".")[0] not in MIXING]


def name_of(one: Group, groups: Sequence[Group]) -> str:
    """Return a group's name: method, mixture, and what tells it from groups with the same two."""
    method, mix = one.settings["method"], one.settings["mix"]
    same_method = [g.settings for g in groups if g.settings["method"] == method]
    same_mix = [s for s in same_method if s["mix"] == mix]
    varying = [n for n in differing(same_method) if n.split(".")[0] not in MIXING]
    varying += [n for n in differing(same_mix) if n.split(".")[0] in MIXING]
    varying += [n for n in ("data", "epochs") if len({str(g.settings[n]) for g in groups}) > 1]
    extra = [f"{n} {one.settings.get(n)}" for n in dict.fromkeys(varying)]
    return ", ".join([method if mix == "none" else f"{method} + {mix}", *extra])
