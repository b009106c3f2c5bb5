"""The figures of the papers, one command each, from the folders of runs.

python tools/figures.py flatness   --run runs/A --run runs/B
python tools/figures.py weights    --run runs/A --run runs/B
python tools/figures.py tsne       --run runs/A --run runs/B
python tools/figures.py curves     --run runs/A --run runs/B
python tools/figures.py budget     --run runs/A --run runs/B
python tools/figures.py neighbours --run runs/A
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib import rc_context
from matplotlib.figure import Figure

from pipelines.sources.image_file import BadImage
from tools.analysis import embedding, flatness, histories, nearest, weights
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


@dataclass(frozen=True, kw_only=True)
class Common:
    """What all figures take."""

    run: tyro.conf.UseAppendAction[tuple[Path, ...]]
    """Folder of a run, as runs/NAME; once for each run."""
    output: Path | None = None
    """Picture to write, .png, .pdf or .svg (default: FIGURE.png in the first run's folder)."""


@dataclass(frozen=True, kw_only=True)
class Flatness(Common):
    """How flat predictions are: sorted raw features, as published, and normalised measures."""

    num: int = 6
    """Images drawn one by one."""
    images: int = 1000
    """Images measured, spread evenly over the split."""
    split: Split | None = None
    """Images to look at (default: val, where there is one)."""

    def draw(self) -> Figure:
        """Draw; print the means."""
        at_least(self, num=1, images=self.num)
        runs = open_runs(self.run)
        rows, split = rows_of(self, runs[0])
        encoded = [encode(run, split, rows) for run in runs]
        print(flatness.table(names_of(runs), encoded))
        return flatness.draw(names_of(runs), encoded, min(self.num, len(rows)))


@dataclass(frozen=True, kw_only=True)
class Weights(Common):
    """Histograms of chosen layers' weights, run against run."""

    layers: tuple[str, ...] = ()
    """Layers by name (default: --num of them, spread evenly over the network)."""
    num: int = 6
    """Layers drawn."""
    untrained: bool = False
    """Draw the first run's network before its first step as well."""

    def draw(self) -> Figure:
        """Draw; print each layer's deviation."""
        at_least(self, num=1)
        opened = [open_weights(folder) for folder in self.run]
        names = unique([name_of(folder) for folder in self.run])
        shown = dict(
            zip(
                names,
                (weights.layers_of(some.method.scored_encoder) for some in opened),
                strict=True,
            )
        )
        layers = weights.choose(list(next(iter(shown.values()))), self.layers, self.num)
        for folder, found in zip(self.run, shown.values(), strict=True):
            missing = [layer for layer in layers if layer not in found]
            if missing:
                raise ValueError(
                    f"--run {folder} has no layer {missing[0]}: compare runs of one --backbone"
                )
        if self.untrained:
            shown["untrained"] = weights.layers_of(opened[0].untrained.scored_encoder)
        print(weights.table(shown, layers))
        return weights.draw(shown, layers)


@dataclass(frozen=True, kw_only=True)
class Tsne(Common):
    """t-SNE of the images' embeddings, coloured by class."""

    images: int = 1000
    """Images shown, spread evenly over the split."""
    split: Split | None = None
    """Images to look at (default: val, where there is one)."""
    features: Features = "backbone"
    """The backbone's pooled features, or the projection head's output."""
    perplexity: float = embedding.PERPLEXITY
    """Neighbours that a point keeps near, about."""
    seed: int = 0
    """Key of t-SNE's random numbers."""

    def draw(self) -> Figure:
        """Draw; without labels all points look the same, and a line says so."""
        at_least(self, images=4, perplexity=1)
        runs = open_runs(self.run)
        rows, split = rows_of(self, runs[0])
        encoded = [encode(run, split, rows, self.features) for run in runs]
        table = encoded[0].table
        if not (table.label >= 0).any():
            print("the images have no labels: the points are not coloured")
        elif len(table.classes) > style.NUM_LOOKS:
            print(f"{style.NUM_LOOKS} of {len(table.classes)} classes are coloured, others gray")
        places = [embedding.tsne(some.features, self.perplexity, self.seed) for some in encoded]
        how = (
            f"t-SNE of the {self.features}'s unit rows, {len(rows):,} {split} images, "
            f"perplexity {self.perplexity:g}, seed {self.seed}"
        )
        return embedding.draw(names_of(runs), encoded, places, how)


@dataclass(frozen=True, kw_only=True)
class Curves(Common):
    """Loss and kNN accuracy of runs over their course."""

    x: histories.Budget = "epochs"
    """What the curves are drawn against."""

    def draw(self) -> Figure:
        """Draw."""
        return histories.draw_curves([histories.read(folder) for folder in self.run], self.x)


@dataclass(frozen=True, kw_only=True)
class Budget(Common):
    """Accuracy of whole runs against what they cost; lines join runs of a method and mixture."""

    x: histories.Budget = "epochs"
    """The cost; hours are those of the steps, by the speed that the run logged."""
    protocol: str = histories.ONLINE
    """online: train.py's last kNN score; or the protocol of lines of eval.jsonl, as linear."""
    score: str | None = None
    """Which of its numbers, as knn_top5 (default: the first, top-1)."""

    def draw(self) -> Figure:
        """Draw; print a line a run."""
        runs = [histories.read(folder) for folder in self.run]
        scores = histories.scores_of(runs, self.protocol, self.score)
        print(histories.table_of_budget(runs, scores, self.x))
        return histories.draw_budget(runs, scores, self.x)


@dataclass(frozen=True, kw_only=True)
class Neighbours(Common):
    """Nearest neighbours of chosen images, right and wrong ones marked."""

    rows: tuple[int, ...] = ()
    """Rows of the queries in their split (default: --num, spread evenly)."""
    num: int = 6
    """Queries."""
    k: int = 8
    """Neighbours of each."""
    split: Split | None = None
    """Images of the queries (default: val, where there is one)."""
    among: Split = "train"
    """Images that neighbours are looked for among."""
    images: int = 5000
    """How many of those, at most, spread evenly."""
    features: Features = "backbone"
    """The backbone's pooled features, or the projection head's output."""

    def draw(self) -> Figure:
        """Draw; print how many neighbours are of their query's class."""
        at_least(self, num=1, k=1, images=2)
        runs = open_runs(self.run)
        split = self.split or split_of(runs[0].data)
        rows = self._queries(len(table_of(runs[0].data, split)))
        bank_rows = spread(len(table_of(runs[0].data, self.among)), self.images)
        own = None
        if split == self.among:  # an image is no neighbour of itself
            bank_rows = np.union1d(bank_rows, rows)
            own = np.searchsorted(bank_rows, rows)
        queries = [encode(run, split, rows, self.features) for run in runs]
        banks = [encode(run, self.among, bank_rows, self.features) for run in runs]
        nears = []
        for name, some, bank in zip(names_of(runs), queries, banks, strict=True):
            nears.append(nearest.nearest(some.features, bank.features, self.k, own))
            marks = nearest.right(nears[-1], some.table.label, bank.table.label)
            print(f"{name}: {nearest.share_right(marks)} ({len(rows)} queries, k {self.k})")
        tables = [bank.table for bank in banks]
        return nearest.draw(names_of(runs), queries[0], tables, nears)

    def _queries(self, total: int) -> Any:
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
    | Annotated[Neighbours, tyro.conf.subcommand("neighbours")]
)


def at_least(asked: Common, **least: int) -> None:
    """Refuse numbers below their least.

    Raises:
        ValueError: naming the flag.
    """
    for name, low in least.items():
        if getattr(asked, name) < low:
            raise ValueError(f"--{name} {getattr(asked, name)} must be at least {low}")


def rows_of(asked: Flatness | Tsne, run: LoadedRun) -> tuple[Any, Split]:
    """Return the rows to look at and their split; a line says so where it is the training one."""
    split = asked.split or split_of(run.data)
    if asked.split is None and split == "train":
        print("no validation images: these are training images")
    return spread(len(table_of(run.data, split)), asked.images), split


def names_of(runs: Sequence[LoadedRun]) -> list[str]:
    """Return the runs' names."""
    return unique([name_of(run.folder) for run in runs])


def unique(names: Sequence[str]) -> list[str]:
    """Return the names, numbered where one comes twice."""
    return [
        f"{name} ({names[: place + 1].count(name)})" if names.count(name) > 1 else name
        for place, name in enumerate(names)
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw a figure and print where it is; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        asked: Any = tyro.cli(Figures, args=argv, description=__doc__)
        if not asked.run:
            raise ValueError("--run is missing: name the folder of a run, as runs/NAME")
        for folder in asked.run:
            if not folder.is_dir():
                raise ValueError(f"--run {folder}: there is no such run")
        path = asked.output or asked.run[0] / f"{type(asked).__name__.lower()}.png"
        style.check_output(path)
        with rc_context(style.FONT):
            style.save(asked.draw(), path)
    except (ValueError, OSError, BadImage) as error:
        print(f"tools/figures.py: {error}", file=sys.stderr)
        return 2
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
