"""Draw each mixture of real images.

Example:
    python tools/gallery.py --output docs/mixtures.jpg

Each row is an image, and each column a value of --mix. The views are cropped, without other
augmentations. Mixtures that change only some of the images are drawn as changing each image once.
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
from pipelines.data_facts import data_facts
from pipelines.mixtures.registry import MixSettings, create_mixture
from pipelines.public import LoaderOptions, build_loader, open_data
from pipelines.settings import AMONG_MIXTURES, ImConfig
from pipelines.views import View
from tools.config.data_sets import sum_repeated
from tools.plots import style
from tools.plots.views import enlarge, grid, to_pixels
from tools.runs.command import command

SHOWN = ("none", "global", "region", "mixmask", "scalemix", "sdmp", "im", "cutout", "erasing")
ONCE = {"g_num": 1, "g_prob": 1.0, "r_num": 1, "r_prob": 1.0, "mask_prob": 1.0}
SIDE = 144
SUFFIXES = (*style.SUFFIXES, ".jpg", ".jpeg")


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Draw each mixture of real images."""

    output: Annotated[Path | None, tyro.conf.arg(aliases=("--out",))] = None
    """Picture to write: .png or .jpg."""
    picture: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PICTURE]")] = None
    """The same as --output, by position."""
    data: str = "photos"
    """Images, as --data of train.py."""
    data_dir: Path = Path("data")
    """Folder of the published data sets."""
    rows: int = 4
    """Number of images; must be even."""
    size: int = 144
    """Side of the views in pixels."""
    step: int = 0
    """Step of a run with seed --seed whose batch is drawn."""
    seed: int = 0
    """Seed of all random numbers."""


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the picture; return the exit status."""
    words = sum_repeated(sys.argv[1:] if argv is None else argv)
    return command(
        "tools/gallery.py", lambda: draw(tyro.cli(Arguments, args=words, description=__doc__))
    )


def draw(arguments: Arguments) -> None:
    """Write the picture.

    Raises:
        ValueError: the picture is not named or cannot be written, or a number is out of range.
    """
    path = arguments.output or arguments.picture
    if path is None:
        raise ValueError("--output is missing: name the picture to write, .png or .jpg")
    style.check_output(path, SUFFIXES)
    if arguments.rows < 2 or arguments.rows % 2:
        raise ValueError(f"--rows {arguments.rows} must be even: mixtures pair the images")
    for name, low in (("size", 1), ("step", 0), ("seed", 0)):
        if getattr(arguments, name) < low:
            raise ValueError(f"--{name} {getattr(arguments, name)} must be at least {low}")
    facts = data_facts(arguments.data)
    batches = {mix: show(mix, arguments) for mix in SHOWN}
    columns, scale = [], max(round(SIDE / arguments.size), 1)
    for mix, batch in batches.items():
        image = batch.mixed[0].image if batch.mixed else batch.views[0]
        pixels = to_pixels(image, facts.mean, facts.std)
        columns.append((title(mix, batch), [enlarge(cell, scale) for cell in pixels]))
    numbers = [f"#{row}" for row in batches["none"].index.tolist()]
    grid(columns, numbers, [], len(columns)).savefig(path, dpi=100)


def title(mix: str, batch: Batch) -> str:
    """Return a column's title, with λ if the loss uses it and all images have the same."""
    if mix == "none":
        return "no mixture"
    shares = {lam for m in batch.mixed for lam in m.lam.tolist()}
    return f"{mix}, λ {shares.pop():.2f}" if len(shares) == 1 else mix


def show(mix: str, arguments: Arguments) -> Batch:
    """Return a batch under a mixture: of one view, or of the two that the mixture needs."""
    crop = View(arguments.size, scale=(0.5, 1.0), jitter_prob=0.0, gray=0.0, blur=0.0)
    with build_loader(
        open_data(arguments.data, data_dir=arguments.data_dir),
        [crop] * (2 if mix in AMONG_MIXTURES else 1),
        arguments.rows,
        mixture=create_mixture(mix, MixSettings(im=once(arguments.size))),
        seed=arguments.seed,
        device="cpu",
        options=LoaderOptions(workers=1),
    ) as loader:
        loader.step = arguments.step
        return next(iter(loader))


def once(size: int) -> ImConfig:
    """Return settings that change every image once; cutout's mask is scaled from 224 pixels."""
    return ImConfig(**ONCE, mask_size=round(50 / 224 * size))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
