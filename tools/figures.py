"""Draw the figures of the papers from the folders of runs, with one subcommand each.

Examples:
    python tools/figures.py flatness   runs/A runs/B
    python tools/figures.py weights    runs/A runs/B
    python tools/figures.py tsne       runs/A runs/B
    python tools/figures.py curves     runs/A runs/B
    python tools/figures.py budget     runs/A runs/B
    python tools/figures.py neighbours runs/A
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import tyro
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tools.analysis import embedding, histories, nearest, weights
from tools.analysis.loaded_run import (
    Features,
    LoadedRun,
    Split,
    encode,
    name_of,
    open_runs,
    open_weights,
    split_of,
    spread,
    table_of,
)
from tools.plots import style
from tools.plots.embedding import draw_maps
from tools.plots.flatness import draw_flatness
from tools.plots.neighbors import NeighborRow, draw_neighbors
from tools.plots.panels import draw_panels
from tools.plots.weights import draw_weights
from tools.runs.command import command
from tools.runs.locate import RunArguments
from tools.scoring import flatness


@dataclass(frozen=True, kw_only=True)
class Common(RunArguments):
    """The flags of all figures."""

    figure: ClassVar[str]
    """Name of the subcommand and of the default output."""
    output: Path | None = None
    """Picture to write, .png, .pdf or .svg (default: FIGURE.png in the first run's folder)."""


@dataclass(frozen=True, kw_only=True)
class OfImages(Common):
    """The flags of the figures that show images of a split."""

    images: int = 1000
    """Largest number of images, spread evenly over the split."""
    split: Split | None = None
    """Split of the images (default: val if there is one)."""


@dataclass(frozen=True, kw_only=True)
class Flatness(OfImages):
    """Flatness of predictions: sorted raw features, as published, and normalised measures."""

    figure = "flatness"
    num: int = 6
    """Number of images drawn individually."""

    def draw(self) -> Figure:
        """Draw the figure and print the means."""
        at_least(self, num=1, images=self.num)
        runs = open_runs(self.folders)
        rows, split = rows_of(self, runs[0])
        encoded = [encode(run, split, rows) for run in runs]
        features = {name: some.features for name, some in zip(names_of(runs), encoded, strict=True)}
        print(flatness.table(features))
        shares = {name: flatness.as_shares(rows) for name, rows in features.items()}
        return draw_flatness(
            encoded[0].table,
            features,
            entropy={name: flatness.entropy(rows) for name, rows in shares.items()},
            largest={name: rows.max(axis=1) for name, rows in shares.items()},
            num=min(self.num, len(rows)),
        )


@dataclass(frozen=True, kw_only=True)
class Weights(Common):
    """Histograms of chosen layers' weights, to compare runs."""

    figure = "weights"
    layers: tuple[str, ...] = ()
    """Names of layers (default: --num of them, spread evenly over the network)."""
    num: int = 6
    """Number of layers to draw."""
    untrained: bool = False
    """Also draw the first run's network before its first step."""

    def draw(self) -> Figure:
        """Draw the figure and print each layer's standard deviation."""
        at_least(self, num=1)
        folders = self.folders
        opened = [open_weights(folder) for folder in folders]
        layers_of = {
            name: weights.layers_of(some.method.scored_encoder)
            for name, some in zip(unique(map(name_of, folders)), opened, strict=True)
        }
        layers = weights.choose(list(next(iter(layers_of.values()))), self.layers, self.num)
        for folder, found in zip(folders, layers_of.values(), strict=True):
            missing = [layer for layer in layers if layer not in found]
            if missing:
                raise ValueError(
                    f"{folder} has no layer {missing[0]}: compare runs of one --backbone"
                )
        if self.untrained:
            layers_of["untrained"] = weights.layers_of(opened[0].untrained.scored_encoder)
        print(weights.table(layers_of, layers))
        return draw_weights(weights.histograms(layers_of, layers))


@dataclass(frozen=True, kw_only=True)
class Tsne(OfImages):
    """t-SNE of the images' embeddings, coloured by class."""

    figure = "tsne"
    features: Features = "backbone"
    """The backbone's pooled features, or the projection head's output."""
    perplexity: float = embedding.PERPLEXITY
    """Perplexity of t-SNE: about the number of neighbours that each point is kept close to."""
    seed: int = 0
    """Seed of t-SNE's random numbers."""

    def draw(self) -> Figure:
        """Draw the figure; print a note if there are more classes than colors."""
        at_least(self, images=4, perplexity=1)
        runs = open_runs(self.folders)
        rows, split = rows_of(self, runs[0])
        encoded = [encode(run, split, rows, self.features) for run in runs]
        table = encoded[0].table
        if not (table.label >= 0).any():
            print("the images have no labels: the points are not coloured")
        elif len(table.classes) > style.NUM_LOOKS:
            print(f"{style.NUM_LOOKS} of {len(table.classes)} classes are coloured, others gray")
        maps = [embedding.tsne(some.features, self.perplexity, self.seed) for some in encoded]
        caption = (
            f"t-SNE of the {self.features}'s unit rows, {len(rows):,} {split} images, "
            f"perplexity {self.perplexity:g}, seed {self.seed}"
        )
        return draw_maps(table, maps, names_of(runs), caption)


@dataclass(frozen=True, kw_only=True)
class Curves(Common):
    """Loss and kNN accuracy of runs during training."""

    figure = "curves"
    x: histories.Budget = "epochs"
    """Horizontal axis."""
    mean: bool = False
    """Draw runs that differ only in the seed as one line, their mean, in a band of one standard
    deviation on either side."""

    def draw(self) -> Figure:
        """Draw the figure."""
        runs = [histories.read(run) for run in self.records]
        panels = histories.curve_panels(runs, self.x, self.mean)
        return draw_panels(panels, size=(3.7, 3.3), shared_legend=True)


@dataclass(frozen=True, kw_only=True)
class Budget(Common):
    """Accuracy of finished runs against their cost; a line joins runs of a method and mixture."""

    figure = "budget"
    x: histories.Budget = "epochs"
    """Unit of the cost. Hours include only training steps, at the speed that the run logged."""
    protocol: str = histories.ONLINE
    """online, train.py's last kNN score; or a protocol of eval.py, as linear."""
    score: str | None = None
    """Name of the score, such as knn_top5 (default: the protocol's first, top-1)."""

    def draw(self) -> Figure:
        """Draw the figure and print a line for each run."""
        runs = [histories.read(run) for run in self.records]
        scores = histories.scores_of(runs, self.protocol, self.score)
        print(histories.table_of_budget(runs, scores, self.x))
        panel = histories.budget_panel(runs, scores, self.x)
        return draw_panels([panel], size=(4.6, 3.4), shared_legend=True)


@dataclass(frozen=True, kw_only=True)
class Neighbors(Common):
    """Nearest neighbours of chosen images, marked by whether they are of the same class."""

    figure = "neighbours"
    rows: tuple[int, ...] = ()
    """Rows of the queries in their split (default: --num of them, spread evenly)."""
    num: int = 6
    """Number of queries."""
    k: int = 8
    """Number of neighbours of each query."""
    split: Split | None = None
    """Split of the queries (default: val if there is one)."""
    among: Split = "train"
    """Split that is searched for neighbours."""
    images: int = 5000
    """Largest number of images that are searched, spread evenly over --among."""
    features: Features = "backbone"
    """The backbone's pooled features, or the projection head's output."""

    def draw(self) -> Figure:
        """Draw the figure; print the share of neighbours that are of their query's class."""
        at_least(self, num=1, k=1, images=2)
        runs = open_runs(self.folders)
        split = self.split or split_of(runs[0].data)
        rows = self._queries(len(table_of(runs[0].data, split)))
        bank_rows = spread(len(table_of(runs[0].data, self.among)), self.images)
        own = None
        if split == self.among:  # an image is not its own neighbour
            bank_rows = np.union1d(bank_rows, rows)
            own = np.searchsorted(bank_rows, rows)
        queries = [encode(run, split, rows, self.features) for run in runs]
        banks = [encode(run, self.among, bank_rows, self.features) for run in runs]
        names = names_of(runs)
        shown: list[list[NeighborRow]] = []
        for name, some, bank in zip(names, queries, banks, strict=True):
            found = nearest.nearest(some.features, bank.features, self.k, own)
            marks = nearest.same_class(found, some.table.label, bank.table.label)
            print(f"{name}: {nearest.describe(marks)} ({len(rows)} queries, k {self.k})")
            near = (found.index, found.similarity, marks)
            shown.append([NeighborRow(i, *line) for i, line in enumerate(zip(*near, strict=True))])
        by_query = [row for of_query in zip(*shown, strict=True) for row in of_query]
        labels = names * len(rows) if len(runs) > 1 else None
        return draw_neighbors(queries[0].table, rows.tolist(), banks[0].table, by_query, labels)

    def _queries(self, total: int) -> NDArray[np.int64]:
        beyond = [row for row in self.rows if not 0 <= row < total]
        if beyond:
            raise ValueError(f"--rows {beyond[0]} must be between 0 and {total - 1}")
        return np.array(self.rows, np.int64) if self.rows else spread(total, self.num)


Figures = (
    Annotated[Flatness, tyro.conf.subcommand("flatness")]
    | Annotated[Weights, tyro.conf.subcommand("weights")]
    | Annotated[Tsne, tyro.conf.subcommand("tsne")]
    | Annotated[Curves, tyro.conf.subcommand("curves")]
    | Annotated[Budget, tyro.conf.subcommand("budget")]
    | Annotated[Neighbors, tyro.conf.subcommand("neighbours")]
)


def at_least(arguments: Common, **least: int) -> None:
    """Check that arguments are at least their least values.

    Raises:
        ValueError: one is below; the message names the flag.
    """
    for name, low in least.items():
        if getattr(arguments, name) < low:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least {low}")


def rows_of(arguments: OfImages, run: LoadedRun) -> tuple[NDArray[np.int64], Split]:
    """Return the rows of the images and their split; print a note if it is the training split."""
    split = arguments.split or split_of(run.data)
    if arguments.split is None and split == "train":
        print("no validation images: these are training images")
    return spread(len(table_of(run.data, split)), arguments.images), split


def names_of(runs: Sequence[LoadedRun]) -> list[str]:
    """Return the runs' names."""
    return unique([name_of(run.folder) for run in runs])


def unique(names: Iterable[str]) -> list[str]:
    """Return the names, with numbers added to repeated ones."""
    names = list(names)
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a figure and print its path; return the exit status."""
    return command("tools/figures.py", lambda: run(argv))


def run(argv: Sequence[str] | None) -> None:
    """Draw the figure of the flags."""
    arguments: Any = tyro.cli(Figures, args=argv, description=__doc__)
    first = arguments.records[0]
    home = first if first.is_dir() else first.parent
    path = arguments.output or home / f"{arguments.figure}.png"
    style.check_output(path)
    style.save(arguments.draw(), path)
    print(path)


if __name__ == "__main__":
    sys.exit(main())
