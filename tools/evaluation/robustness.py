"""``eval.py robustness``: accuracy against the training budget, over the checkpoints of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from rich.console import Console
from rich.table import Table
from tyro.conf import Positional, arg

from models.settings.base import Which
from tools.evaluation.base import Protocol
from tools.evaluation.knn import Knn
from tools.evaluation.linear import Linear, PresetName
from tools.runs.locate import find_run
from tools.runs.metrics import read_metrics
from tools.runs.record import read_config
from tools.runs.scores import read_scores

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curve = list[tuple[int, float, float]]
"""Steps, epochs and scores in [0, 1], the first step first."""


@dataclass(frozen=True, kw_only=True)
class Robustness(Protocol):
    """Score the checkpoints of several runs: accuracy against epochs of training.

    Each score is appended to its run's eval.jsonl, as by eval.py knn or linear. Training with
    --keep-every-epochs N keeps checkpoints.
    """

    runs: Annotated[tuple[Path, ...], Positional, arg(metavar="RUN [RUN ...]")]
    """Runs to score: folders, as runs/NAME, or names below ./runs."""
    checkpoints: Literal["all", "last"] = "all"
    """Score all checkpoints that a run kept, or only the last."""
    linear: PresetName | None = None
    """Also train a linear layer on each checkpoint, by this --preset of eval.py linear."""
    lr: float | None = None
    """Initial learning rate of the linear layer (default: the preset's)."""
    epochs: int | None = None
    """Epochs of the linear layer (default: the preset's)."""
    k: int | None = None
    """Number of neighbours that vote (default: as eval.py knn)."""
    features: Literal["backbone", "projection"] = "backbone"
    """The backbone's pooled features, or the projection head's output."""
    encoder: Which | None = None
    """Encoder to score: the trained one or its momentum (EMA) copy (default: the paper's)."""
    data: str | None = None
    """Labelled training images, named as --data of train.py (default: each run's)."""
    val_data: str | None = None
    """Labelled images to score (default: each run's)."""
    data_dir: Path | None = None
    """Folder of the published data sets (default: each run's)."""
    workers: int | None = None
    """Decoding threads of each process (default: its share of the cores)."""
    output: Path | None = None
    """File for a picture of the curves: .png, .pdf or .svg."""

    def __post_init__(self) -> None:
        if self.linear is None and (self.lr, self.epochs) != (None, None):
            raise ValueError("--lr and --epochs belong to the linear layer: they need --linear")
        if not self.runs:
            raise ValueError("robustness names no run: give folders, as runs/NAME")

    def evaluate(self, command: str) -> None:
        """Score every checkpoint by every protocol, in order of steps; print a table."""
        from accelerate import PartialState

        from tools.plots import style

        if self.output:
            style.check_output(self.output)
        runs = self.scored_runs
        check_runs(runs, ("precision",) if self.data else ("precision", "data", "val_data"))
        found = {run: self._checkpoints(run) for run in runs}
        for run, paths in found.items():
            for path in paths:
                for protocol in self._protocols(run, path):
                    protocol.evaluate(command)
        if not PartialState().is_main_process:
            return
        curves = {
            name: {run: read_curve(run, name, paths) for run, paths in found.items()}
            for name in (("knn", "linear") if self.linear else ("knn",))
        }
        show(curves, Console())
        if self.output:
            style.save(draw(curves), self.output)
            print(self.output)

    @property
    def scored_runs(self) -> list[Path]:
        """The folders of the runs."""
        return [find_run(run) for run in self.runs]

    def _checkpoints(self, run: Path) -> list[Path]:
        """Return a run's checkpoints in order of steps; a damaged one is refused when read."""
        from tools.runs import checkpoint

        paths = checkpoint.find(run)
        return paths[:1] if self.checkpoints == "last" else paths[::-1]

    def _protocols(self, run: Path, path: Path) -> Iterator[Protocol]:
        images: dict[str, Any] = {
            name: getattr(self, name) for name in ("data", "val_data", "data_dir", "workers")
        }
        images |= {"run": run, "checkpoint": path, "encoder": self.encoder}
        yield Knn(k=() if self.k is None else (self.k,), features=self.features, **images)
        if self.linear:
            lr = () if self.lr is None else (self.lr,)
            yield Linear(preset=self.linear, lr=lr, epochs=self.epochs, **images)


def check_runs(runs: Sequence[Path], alike: Sequence[str]) -> None:
    """Refuse runs that differ in a setting named in ``alike``, before any image is encoded.

    Raises:
        ValueError: the runs differ, a folder is not a run, or a run is named twice.
    """
    if len({run.resolve() for run in runs}) < len(runs):
        raise ValueError(f"{' '.join(map(str, runs))}: one run is named twice")
    first, *others = [read_config(run) for run in runs]
    for run, config in zip(runs[1:], others, strict=True):
        for name in alike:
            a, b = getattr(first, name), getattr(config, name)
            if a != b:
                fix = "score them one by one" if name == "precision" else "--data names one for all"
                raise ValueError(f"{runs[0]} has {name} {a}, {run} has {b}; {fix}")


def read_curve(run: Path, protocol: str, paths: Sequence[Path]) -> Curve:
    """Return the newest scores of a run's checkpoints in eval.jsonl.

    Raises:
        ValueError: metrics.jsonl does not tell the number of steps an epoch.
    """
    from tools.runs import checkpoint

    lines = [line for line in read_metrics(run / "metrics.jsonl") if line.get("epoch")]
    if not lines:
        raise ValueError(f"{run}/metrics.jsonl does not say how many steps an epoch has")
    steps_per_epoch = lines[-1]["step"] / lines[-1]["epoch"]
    found = read_scores(run, protocol)
    newest = {s.step: s.value for s in reversed(found) if s.protocol == found[0].protocol}
    steps = [checkpoint.step_of(path) for path in paths]
    return [(step, step / steps_per_epoch, newest[step]) for step in steps]


def show(curves: Mapping[str, Mapping[Path, Curve]], console: Console) -> None:
    """Print a line for each checkpoint, with scores in percent."""
    table = Table("run", "epoch", "step", *(f"{name} top-1" for name in curves))
    for column in table.columns[1:]:
        column.justify = "right"
    for run in next(iter(curves.values())):
        for points in zip(*(of_runs[run] for of_runs in curves.values()), strict=True):
            step, epoch, _ = points[0]
            cells = [run.resolve().name, f"{epoch:.4g}", f"{step:,}"]
            table.add_row(*cells, *(f"{100 * value:.2f}" for *_, value in points))
        table.add_section()
    console.print(table)


def draw(curves: Mapping[str, Mapping[Path, Curve]]) -> Figure:
    """Draw a panel for each protocol, with a line for each run."""
    from tools.plots import style

    figure = style.sheet(4.6 * len(curves), 3.6)
    panels = figure.subplots(1, len(curves), squeeze=False)[0]
    for axes, (name, of_runs) in zip(panels, curves.items(), strict=True):
        for number, (run, curve) in enumerate(of_runs.items()):
            color, marker = style.look(number)
            _, epochs, values = zip(*curve, strict=True)
            shares = [100 * value for value in values]
            axes.plot(epochs, shares, marker=marker, ms=4, color=color, label=run.resolve().name)
        style.tidy(axes, x="epochs of training", y=f"{name} top-1, %")
        axes.set_xlim(left=0)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure
