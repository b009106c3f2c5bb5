"""Draw CLIM's neighbours, and mark which ones its rule keeps or rejects.

Example:
    python tools/neighbours.py runs/NAME
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import track

from pipelines.mixtures.clim_rules import MASKS, purity, select
from pipelines.settings import RuleName
from pipelines.sources.table import Table
from tools.config.clim import ClimConfig
from tools.config.resolve import check_mixture, check_neighbours
from tools.distributed.launch import start
from tools.engine import build
from tools.engine.clim_refresh import Neighborhood, describe, encode_all, find, statistics
from tools.engine.data import open_data_of
from tools.engine.restore import restore
from tools.plots import style
from tools.plots.image_grid import SIDE, Cell, draw_image_grid
from tools.plots.thumbnails import thumbnail
from tools.runs.command import command
from tools.runs.locate import RunArguments

COLUMNS = 10
KEPT, REJECTED = style.COLORS[2], style.COLORS[1]


@dataclass(frozen=True, kw_only=True)
class Arguments(RunArguments):
    """Search neighbours with a run's last checkpoint, as CLIM's refresh does in training."""

    checkpoint: Path | None = None
    """Checkpoint of the network (default: the run's last)."""
    num: int = 12
    """Number of images to draw, spread evenly over the data set."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=("--out",))] = None
    """Picture to write, .png, .pdf or .svg (default: neighbours.png in the run's folder)."""
    rule: RuleName | None = None
    """Rule that keeps or rejects neighbours (default: the run's)."""
    neighbours: int | None = None
    """Number of nearest images that the rule chooses from (default: the run's)."""
    clusters: int | None = None
    """Number of k-means clusters (default: the run's)."""
    features: Literal["momentum", "online"] | None = None
    """Encoder of the features (default: the run's)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture and print the purity of each rule; return the exit status."""
    return command(
        "tools/neighbours.py", lambda: show(tyro.cli(Arguments, args=argv, description=__doc__))
    )


def show(args: Arguments) -> None:
    """Search with the checkpoint, print statistics of each rule, write the picture.

    Raises:
        ValueError: the run does not exist, or a number is out of range.
    """
    if args.num < 1:
        raise ValueError(f"--num {args.num} must be at least 1")
    folder, *others = args.folders
    if others:
        raise ValueError("name a single run: neighbours are searched with one network")
    path = args.output or folder / "neighbours.png"
    style.check_output(path)
    config, state = build.load_run(folder, args.checkpoint)
    config = dataclasses.replace(config, mix="clim", clim=clim_of(args, config.clim))
    accelerator = start(config.precision)
    data = open_data_of(config, accelerator)
    check_mixture(config)
    check_neighbours(config, len(data.train))
    trained = dataclasses.replace(config, mix="none")  # any method has features
    method = restore(trained, state, data.facts).to(accelerator.device)
    if args.features is None and len(method.encoders()) < 2:  # there is no momentum encoder
        clim = dataclasses.replace(config.clim, features="online")
        config = dataclasses.replace(config, clim=clim)

    def watch(items: Sequence[Any], what: str) -> Any:
        return track(items, what, transient=True)

    decoders = build.Decoders(config, accelerator)
    try:
        features = encode_all(method, config, data, decoders, accelerator, watch)
        found = find(features, config.clim, config.seed, state["step"], watch)
    finally:
        decoders.close()
    if accelerator.is_main_process:
        numbers = statistics(found, data.train.label)
        print(f"step {state['step']:,}, rule {config.clim.rule}: {describe(numbers)}")
        print_rules(found, config.clim, data.train.label)
        anchors = np.linspace(0, len(data.train) - 1, min(args.num, len(data.train))).astype(int)
        style.save(draw(found, data.train, anchors), path)
        print(path)


def clim_of(args: Arguments, clim: ClimConfig) -> ClimConfig:
    """Return the run's CLIM settings with the flags' changes."""
    names = ("rule", "neighbours", "clusters", "features")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    clim = dataclasses.replace(clim, **given)
    if clim.rule == "random":  # this rule needs no search
        clim = dataclasses.replace(clim, rule="knn")
    return clim


def print_rules(found: Neighborhood, clim: ClimConfig, label: NDArray[np.int64]) -> None:
    """Print each rule's mean number of neighbors, share of images with too few, and purity."""
    anchors = np.arange(len(label))
    print(f"{'rule':12} {'kept':>6} {'short':>7} {'same class':>11}")
    for rule in (*MASKS, "ranked"):
        selection = select(found.candidates, rule, clim.limit)
        pure = purity(found.candidates.index, selection.keep, anchors, label)
        known = f"{pure:11.1%}" if np.isfinite(pure) else f"{'no labels':>11}"
        kept, short = selection.keep.sum(axis=1).mean(), selection.short.mean()
        print(f"{rule:12} {kept:6.2f} {short:7.1%} {known}")


def draw(found: Neighborhood, table: Table, anchors: NDArray[np.int64]) -> Figure:
    """Draw a row for each anchor: its image, then its nearest images, framed as kept or rejected.

    The text below gives the similarity s to the anchor, and the distance r to the anchor's center.
    """
    c, keep = found.candidates, found.selection.keep
    rows = []
    for i in anchors.tolist():
        text = f"#{i}\nr {1 - c.anchor_to_center[i]:.3f}"
        cells = [Cell(thumbnail(table, i, SIDE), text, framed=False)]
        for p, row in enumerate(c.index[i, :COLUMNS].tolist()):
            text = f"s {c.similarity[i, p]:.3f}\nr {1 - c.to_center[i, p]:.3f}"
            color = KEPT if keep[i, p] else REJECTED
            cells.append(Cell(thumbnail(table, row, SIDE), text, color))
        rows.append(cells)
    return draw_image_grid(
        rows,
        "anchor, then its nearest images: green kept, orange rejected.   "
        "s: similarity to the anchor   r: distance to the anchor's center",
    )


if __name__ == "__main__":
    sys.exit(main())
