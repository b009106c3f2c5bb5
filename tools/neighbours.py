"""Show what CLIM finds: images with the neighbours that its rule keeps and those it rejects.

python tools/neighbours.py --run runs/NAME
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
from typing import Any, Literal

import numpy as np
import tyro
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.progress import track

from pipelines.mixtures.clim_rules import MASKS, purity, select
from pipelines.settings import RuleName
from pipelines.sources.image_file import BadImage
from pipelines.sources.table import Table
from tools.config.clim import ClimConfig
from tools.config.resolve import check_mixture
from tools.distributed.launch import start
from tools.engine import build
from tools.engine.clim_refresh import Neighborhood, describe, encode_all, find, statistics
from tools.engine.restore import restore

COLUMNS = 10
KEPT, REJECTED = "#1a7f37", "#b35900"


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Look for neighbours with a run's last checkpoint, as a renewal of its table would."""

    run: Path
    """Folder of the run, as runs/NAME; of any method and mixture."""
    checkpoint: Path | None = None
    """Checkpoint to look with (default: the run's last)."""
    num: int = 12
    """Images to draw, spread evenly over the data set."""
    out: Path | None = None
    """Picture to write (default: neighbours.png in the run's folder)."""
    rule: RuleName | None = None
    """Rule whose choice is drawn (default: the run's)."""
    neighbours: int | None = None
    """Nearest images it chooses from (default: the run's)."""
    clusters: int | None = None
    """Clusters of the k-means (default: the run's)."""
    features: Literal["momentum", "online"] | None = None
    """Encoder to look with (default: the run's)."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture and print the purity of each rule; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        show(tyro.cli(Arguments, args=argv, description=__doc__))
    except (ValueError, OSError, BadImage) as error:
        print(f"tools/neighbours.py: {error}", file=sys.stderr)
        return 2
    return 0


def show(args: Arguments) -> Neighborhood:
    """Search with the checkpoint, print what each rule would keep, write the picture."""
    if args.num < 1:
        raise ValueError(f"--num {args.num} must be at least 1")
    config, state = build.load_run(args.run, args.checkpoint)
    names = ("rule", "neighbours", "clusters", "features")
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    clim = dataclasses.replace(config.clim, **given)
    if clim.rule == "random":  # it looks at no neighbour
        clim = dataclasses.replace(clim, rule="knn")
    config = dataclasses.replace(config, mix="clim", clim=clim)
    accelerator = start(config.precision)
    data = build.open_data_of(config, accelerator)
    check_mixture(config, len(data.train))
    trained = dataclasses.replace(config, mix="none")  # any method has features
    method = restore(trained, state, data.facts).to(accelerator.device)
    decoders = build.Decoders(config, accelerator)
    if args.features is None and len(method.encoders()) < 2:  # nothing but the online one
        clim = dataclasses.replace(clim, features="online")
        config = dataclasses.replace(config, clim=clim)

    def watch(items: Sequence[Any], what: str) -> Any:
        return track(items, what, transient=True)

    features = encode_all(method, config, data, decoders, accelerator, watch)
    found = find(features, clim, config.seed, state["step"], watch)
    decoders.close()
    if accelerator.is_main_process:
        numbers = statistics(found, data.train.label)
        print(f"step {state['step']:,}, rule {clim.rule}: {describe(numbers)}")
        print_rules(found, clim, data.train.label)
        out = args.out or args.run / "neighbours.png"
        anchors = np.linspace(0, len(data.train) - 1, min(args.num, len(data.train))).astype(int)
        draw(found, data.train, anchors).savefig(out)
        print(out)
    return found


def print_rules(found: Neighborhood, clim: ClimConfig, label: NDArray[np.int64]) -> None:
    """Print, for every rule, neighbours an image, images without enough, and purity by label."""
    everyone = np.arange(len(label))
    print(f"{'rule':12} {'kept':>6} {'short':>7} {'same class':>11}")
    for rule in (*MASKS, "ranked"):
        selection = select(found.candidates, rule, clim.limit)
        pure = purity(found.candidates.index, selection.keep, everyone, label)
        known = f"{pure:11.1%}" if np.isfinite(pure) else f"{'no labels':>11}"
        kept, short = selection.keep.sum(axis=1).mean(), selection.short.mean()
        print(f"{rule:12} {kept:6.2f} {short:7.1%} {known}")


def draw(found: Neighborhood, table: Table, anchors: NDArray[np.int64]) -> Figure:
    """Draw a row an anchor: itself, then its nearest images, framed as kept or rejected.

    Below each: similarity to the anchor s, and radius r, the distance to the anchor's centre.
    """
    c, keep = found.candidates, found.selection.keep
    columns = min(COLUMNS, c.index.shape[1])
    figure = Figure(figsize=(1.25 * (columns + 1), 1.42 * len(anchors) + 0.5), dpi=100)
    FigureCanvasAgg(figure)
    top = 1 - 0.45 / figure.get_figheight()
    grid = figure.subplots(
        len(anchors),
        columns + 1,
        squeeze=False,
        gridspec_kw={"left": 0.01, "right": 0.99, "top": top, "bottom": 0.03, "hspace": 0.25},
    )
    figure.text(
        0.01,
        1 - 0.2 / figure.get_figheight(),
        "anchor, then its nearest images: green kept, orange rejected.   "
        "s: similarity to the anchor   r: distance to the anchor's centre",
        fontsize=9,
        va="center",
    )
    for axes, i in zip(grid, anchors, strict=True):
        _cell(axes[0], table, int(i), f"#{i}  r {1 - c.anchor_to_centre[i]:.3f}", "black")
        for p, cell in enumerate(axes[1:]):
            text = f"s {c.similarity[i, p]:.3f}  r {1 - c.to_centre[i, p]:.3f}"
            _cell(cell, table, int(c.index[i, p]), text, KEPT if keep[i, p] else REJECTED)
    return figure


def _cell(axes: Any, table: Table, row: int, text: str, colour: str) -> None:
    image = table.source.pixels(row)
    side = min(image.shape[:2])
    top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
    axes.imshow(image[top : top + side, left : left + side])
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(text, fontsize=6.5, color=colour, labelpad=2)
    for spine in axes.spines.values():
        spine.set(color=colour, linewidth=2.5)


if __name__ == "__main__":
    sys.exit(main())
