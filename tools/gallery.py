"""What each mixture does to real images: python tools/gallery.py docs/mixtures.jpg.

A row an image, a column a --mix, on views that are cropped and nothing else. The mixtures that fire
for a few images only are drawn firing for all, once.
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from pipelines.batch import Batch
from pipelines.datasets import data_facts
from pipelines.mixtures.registry import MixSettings, create_mixture
from pipelines.mixtures.unmix import UN_MIX
from pipelines.public import LoaderOptions, build_loader, open_data
from pipelines.settings import ImConfig, MixName
from pipelines.views import View
from tools.plots.views import enlarge, grid, to_pixels

SHOWN: tuple[MixName, ...] = ("none", "global", "region", "im", "cutout", "erasing")
ONCE = {"g_num": 1, "g_prob": 1.0, "r_num": 1, "r_prob": 1.0, "mask_prob": 1.0}
SIDE = 144


@dataclass(frozen=True)
class Arguments:
    """Draw what each mixture does to real images."""

    out: Annotated[Path, tyro.conf.Positional]
    """Picture to write: .png or .jpg."""
    data: str = "photos"
    """Images, as for train.py."""
    data_dir: Path = Path("data")
    """Where published data sets lie."""
    rows: int = 4
    """Images, an even number."""
    size: int = 144
    """Side of the views in pixels."""
    step: int = 0
    """Which step of a run with seed --seed is drawn."""
    seed: int = 0
    """Key of every random number."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw; return the exit status."""
    arguments = tyro.cli(Arguments, args=argv)
    try:
        draw(arguments)
    except (ValueError, OSError) as error:
        print(f"gallery: {error}", file=sys.stderr)
        return 1
    return 0


def draw(arguments: Arguments) -> None:
    """Write the picture.

    Raises:
        ValueError: there are fewer images than rows, or the rows are no pairs.
    """
    if arguments.rows < 2 or arguments.rows % 2:
        raise ValueError(f"--rows {arguments.rows} must be even: mixtures pair the images")
    facts = data_facts(arguments.data)
    batches = {mix: show(mix, arguments) for mix in SHOWN}
    columns, scale = [], max(round(SIDE / arguments.size), 1)
    for mix, batch in batches.items():
        image = batch.mixed[0].image if batch.mixed else batch.views[0]
        pixels = to_pixels(image, facts.mean, facts.std)
        columns.append((title(mix, batch), [enlarge(cell, scale) for cell in pixels]))
    numbers = [f"#{row}" for row in batches["none"].index.tolist()]
    grid(columns, numbers, [], len(columns)).savefig(arguments.out, dpi=100)


def title(mix: MixName, batch: Batch) -> str:
    """Return a column's name, with the share that a row keeps where the loss knows it."""
    if mix == "none":
        return "no mixture"
    return f"{mix}, λ {batch.mixed[0].lam[0]:.2f}" if mix in UN_MIX else mix


def show(mix: MixName, arguments: Arguments) -> Batch:
    """Return a batch of one view under a mixture."""
    crop = View(arguments.size, scale=(0.5, 1.0), jitter_prob=0.0, gray=0.0, blur=0.0)
    with build_loader(
        open_data(arguments.data, data_dir=arguments.data_dir),
        [crop],
        arguments.rows,
        mixture=create_mixture(mix, MixSettings(im=once(arguments.size))),
        seed=arguments.seed,
        device="cpu",
        options=LoaderOptions(workers=1),
    ) as loader:
        loader.step = arguments.step
        return next(iter(loader))


def once(size: int) -> ImConfig:
    """Return settings under which everything happens to each image, once; cutout as for 224."""
    return ImConfig(**ONCE, mask_size=round(50 / 224 * size))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
