"""The scores of runs, read from their folders, and the choice of comparable ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from models.methods import METHODS
from pipelines.settings import CROSS_VIEW, I_MIX_NAMES, UN_MIX_NAMES, parts_of
from tools.config.cli import to_dict
from tools.config.config import Config
from tools.config.values import nearest
from tools.runs.record import Record, read_record

Settings = dict[str, Any]
"""Settings by their dotted names, such as 'lr' and 'clim.rule'."""

ONLINE = "online"
"""Name of the score that a run measures while it trains."""
PROTOCOLS = (ONLINE, "knn", "linear", "semi", "finetune", "detect")
"""Names of scores: the run's own, and eval.py's."""
NOT_THE_PROTOCOL = {"step", "epoch", "seed", "world_size", "time", "commit", "command"}
NOT_THE_PROTOCOL |= {"origin", "loss", "loader", "contents"}
"""Keys of a line of eval.jsonl that may differ between comparable scores."""
SCORES = ("_top1", "_top5", "ap", "ap50", "ap75")
"""Endings of the names of scores, which are in [0, 1]; higher is better."""
MEASURES = ("_confidence", "_entropy")
"""Endings of the names of other measures in [0, 1], which count only if they are asked for."""


@dataclass(frozen=True)
class Scored:
    """A run with one of its scores."""

    run: Path
    settings: Settings
    """The settings that the result depends on, without the seed."""
    seed: int
    protocol: Settings
    """The protocol's name, its settings and the data."""
    step: int
    value: float
    """In [0, 1]."""
    contents: str | None = None
    """A digest of some images' bytes (``pipelines.sources.contents``), if the line has one."""


def settings_of(config: Config) -> Settings:
    """Return the settings that a result depends on, without the seed."""
    leave_out = {f.name for f in fields(Config) if f.metadata.get("free")} - {"data", "epochs"}
    leave_out |= {"seed"} | _without_effect(config.mix)
    return {
        f"{name}.{key}" if key else name: part
        for name, value in to_dict(config).items()
        if name not in leave_out
        for key, part in (value.items() if isinstance(value, dict) else [("", value)])
    }


def _without_effect(mix: str) -> set[str]:
    """Return the mixture settings that this mixture does not use."""
    if mix == "none":
        return {"mix_prob", "mix_beta", "mix_draw", "mix_groups"}
    names = parts_of(mix)
    if not {*names} & {*UN_MIX_NAMES, *I_MIX_NAMES, CROSS_VIEW}:
        return {"mix_prob", "mix_beta"}
    return set() if "unmix" in names else {"mix_prob"}


def read_scores(run: Path, protocol: str, score: str | None = None) -> list[Scored]:
    """Return a run's scores of a protocol, the newest first; empty if there are none.

    Scores of networks that eval.py trained from other weights than the run's are left out.

    ``protocol`` is ``online``, whose last score counts, or one of eval.jsonl; ``score`` is the name
    of the score or measure (default: the first with an ending of ``SCORES``).

    Raises:
        ValueError: there is no such protocol, run or score.
    """
    if protocol not in PROTOCOLS:
        near = nearest(protocol, PROTOCOLS)
        hint = f"did you mean {near}?" if near else f"one of {', '.join(PROTOCOLS)}"
        raise ValueError(f"--protocol {protocol} is unknown: {hint}")
    record = read_record(run)
    config = record.config
    if protocol == ONLINE:
        lines = _online(record)[-1:]
    else:
        lines = [x for x in record.scores if x.get("protocol") == protocol]
        lines = [x for x in lines if x.get("weights", "run") == "run"]
    found, known = [], set[str]()
    for line in reversed(lines):
        numbers = [name for name in line if name.endswith(SCORES + MEASURES)]
        name = score or next((name for name in numbers if name.endswith(SCORES)), "")
        if not isinstance(line.get(name), int | float):
            known.update(numbers)
            continue
        apart = NOT_THE_PROTOCOL.union(numbers)
        how = {"score": name} | {key: value for key, value in line.items() if key not in apart}
        if encoder_of(line) == METHODS[config.method].method.scored:
            how.pop("encoder", None)  # scores of the encoders that the papers score are comparable
        else:
            how["encoder"] = encoder_of(line)
        settings, contents = settings_of(config), line.get("contents")
        found.append(Scored(run, settings, config.seed, how, line["step"], line[name], contents))
    if known and not found:
        have = ", ".join(sorted(known))
        raise ValueError(f"{run}: no score {score or 'of accuracy'!r} by {protocol}, but {have}")
    return found


def text_of(score: str) -> str:
    """Return the name of a score as text: knn_top1 becomes kNN top-1."""
    return score.replace("knn_", "kNN ").replace("_", " ").replace("top", "top-")


def encoder_of(line: Mapping[str, Any]) -> str:
    """Return the scored encoder of a line of eval.jsonl; in older lines, the online one."""
    return line.get("encoder", "online")


def _online(record: Record) -> list[dict[str, Any]]:
    """Return the scores in metrics.jsonl, as lines of eval.jsonl."""
    config = record.config
    how: dict[str, Any] = {"protocol": ONLINE, "data": config.data, "val_data": config.val_data}
    if config.knn_k != Config.knn_k:
        how["k"] = config.knn_k
    how |= chosen_rows(config)
    return [
        how | {name: line[name] for name in ("step", "knn_top1", "knn_top5") if name in line}
        for line in record.metrics
        if line.get("knn_top1") is not None
    ]


def chosen_rows(config: Config) -> dict[str, Any]:
    """Return the settings that choose rows of ``--data``; empty where all are trained on."""
    names = [n for n in ("subset", "val_fraction") if getattr(config, n) is not None]
    return {n: getattr(config, n) for n in [*names, *(["subset_seed"] if names else [])]}


def alike(candidates: Sequence[Sequence[Scored]]) -> list[Scored]:
    """Return one score of each run: by one protocol, at the last common step of each budget.

    ``candidates`` holds each run's scores, the newest first.

    Raises:
        ValueError: the runs differ in the protocol, the data, or the number of steps within the
            same budget; the message names two runs and the difference.
    """
    for wanted in candidates[0]:
        same = [[s for s in scores if s.protocol == wanted.protocol] for scores in candidates]
        chosen = _at_common_steps(same)
        if chosen:
            return chosen
    newest = [scores[0] for scores in candidates]
    for a, b in itertools.combinations(newest, 2):
        names = differing([a.protocol, b.protocol])
        unlike = [
            f"{n} {a.protocol.get(n, 'unset')} and {b.protocol.get(n, 'unset')}" for n in names
        ]
        if a.step != b.step and _budget(a) == _budget(b):
            unlike.append(f"step {a.step} and {b.step} of the same budget")
        if unlike:
            raise ValueError(
                f"{a.run} and {b.run} were not scored alike ({'; '.join(unlike)}): "
                "score both with the same flags of eval.py, or leave one out"
            )
    raise ValueError("no score is common to all runs: score them alike with eval.py")


def _at_common_steps(candidates: Sequence[Sequence[Scored]]) -> list[Scored] | None:
    """Return the scores at the last common step of each budget's runs; None without one."""
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
    """Return the names of settings that differ."""
    many = list(many)
    names = dict.fromkeys(name for settings in many for name in settings)
    return [n for n in names if any(s.get(n) != many[0].get(n) for s in many)]
