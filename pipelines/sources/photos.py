"""The embedded data set ``photos``, which needs no download.

Seventeen real photographs and scans come with scikit-image and scikit-learn. Each is a class; its
images are square patches, cut for training from the left three quarters and for validation from the
rest, so that no pixel of a validation patch was trained on.

Every patch has a random scale, angle, white balance, exposure and contrast, also from grey
photographs. Without these, the mean colour would identify the photograph, and an untrained network
would score nearly as well as a trained one. With them, classes differ in texture and structure. The
augmentations of training are applied on top, as for any data set.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.system import cache
from pipelines.system.atomic import building
from pipelines.system.progress import tracked

log = logging.getLogger(__name__)

VERSION = 3
SEED = 20_240
SIZE = 48
PATCHES = {"train": 300, "val": 60}
"""Patches cut from each photograph."""
TRAIN_SHARE = 0.75
"""Share of the width, from the left, from which training patches are cut."""
QUALITY = 95

SCALES = (0.75, 1.5)
"""Pixels of the photograph per pixel of the patch, drawn log-uniformly."""
DEGREES = 10.0
EXPOSURE = 0.3
"""Standard deviation of the log gain of a patch."""
WHITE_BALANCE = 0.12
"""Standard deviation of the additional log gain of each channel."""
CONTRAST = (0.75, 1.25)

PHOTOGRAPHS = {
    "skimage/data": """
        brick.png cell.png clock_motion.png coffee.png coins.png grass.png gravel.png
        hubble_deep_field.jpg ihc.png moon.png motorcycle_left.png page.png retina.jpg rocket.jpg
        text.png
    """,
    "sklearn/datasets/images": "china.jpg flower.jpg",
}


@dataclass(frozen=True, slots=True)
class Cut:
    """Parameters of a patch: centre and scale in the photograph's pixels, angle, gain, contrast."""

    x: float
    y: float
    scale: float
    radians: float
    mirrored: bool
    gain: tuple[float, float, float]
    contrast: float


def prepare_photos(cache_dir: Path) -> Path:
    """Return the folder, with ``train/NAME/00000.jpg`` and ``val/...``; make it on first use."""
    folder = cache_dir / f"photos-v{VERSION}"
    if folder.is_dir():
        cache.hold(folder)
        return folder
    log.info("cutting the photographs into %s", folder)
    with cache.writing(), building(folder) as temporary:
        photographs = find_photographs()
        for number, (name, path) in enumerate(
            tracked(photographs.items(), len(photographs), "cutting photographs")
        ):
            for split, images in cut_photograph(path, number).items():
                target = temporary / split / name
                target.mkdir(parents=True)
                for i, image in enumerate(images):
                    image.save(target / f"{i:05}.jpg", quality=QUALITY)
    cache.hold(folder)
    return folder


def find_photographs() -> dict[str, Path]:
    """Return name -> file of the photographs in the installed packages.

    Raises:
        ValueError: a package or one of its files is missing.
    """
    found = {}
    for place, names in PHOTOGRAPHS.items():
        package, _, inside = place.partition("/")
        spec = find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ValueError(f"--data photos needs the package {package}: install requirements.txt")
        for name in names.split():
            path = Path(spec.submodule_search_locations[0]) / inside / name
            if not path.is_file():
                raise ValueError(f"--data photos: {path} is missing; reinstall {package}")
            found[path.stem.replace("_", "-")] = path
    return dict(sorted(found.items()))


def cut_photograph(path: Path, number: int) -> dict[str, list[Image.Image]]:
    """Return the patches of one photograph; ``number`` selects its random stream."""
    with Image.open(path) as file:
        photograph = file.convert("RGB")
    edge = round(photograph.width * TRAIN_SHARE)
    regions = {
        "train": photograph.crop((0, 0, edge, photograph.height)),
        "val": photograph.crop((edge, 0, photograph.width, photograph.height)),
    }
    patches = {}
    for stream, (split, region) in enumerate(regions.items()):
        rng = np.random.default_rng([SEED, number, stream])
        cuts = [draw_cut(region.width, region.height, rng) for _ in range(PATCHES[split])]
        patches[split] = [cut_patch(region, cut) for cut in cuts]
    return patches


def draw_cut(width: int, height: int, rng: np.random.Generator) -> Cut:
    """Draw the parameters of a patch that lies inside a region of this size."""
    radians = math.radians(rng.uniform(-DEGREES, DEGREES))
    reach = SIZE * (abs(math.cos(radians)) + abs(math.sin(radians)))  # of its bounding box
    largest = min(SCALES[1], (min(width, height) - 2) / reach)
    low, high = math.log(min(SCALES[0], largest)), math.log(largest)
    scale = math.exp(rng.uniform(low, high))
    margin = scale * reach / 2 + 1
    exposure = rng.normal(0, EXPOSURE)
    gain = np.exp(exposure + rng.normal(0, WHITE_BALANCE, 3))
    return Cut(
        x=rng.uniform(margin, width - margin),
        y=rng.uniform(margin, height - margin),
        scale=scale,
        radians=radians,
        mirrored=bool(rng.random() < 0.5),
        gain=(float(gain[0]), float(gain[1]), float(gain[2])),
        contrast=rng.uniform(*CONTRAST),
    )


def cut_patch(region: Image.Image, cut: Cut) -> Image.Image:
    """Cut a patch; it is resampled at twice its size first, so that it is antialiased."""
    fine = 2 * SIZE
    step = cut.scale * SIZE / fine
    cos, sin = step * math.cos(cut.radians), step * math.sin(cut.radians)
    across = -1 if cut.mirrored else 1
    half = fine / 2
    matrix = (
        across * cos,
        -sin,
        cut.x - half * (across * cos - sin),
        across * sin,
        cos,
        cut.y - half * (across * sin + cos),
    )
    turned = region.transform(
        (fine, fine), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
    patch = turned.resize((SIZE, SIZE), Image.Resampling.BOX)
    return Image.fromarray(_light(np.asarray(patch), cut))


def _light(patch: NDArray[np.uint8], cut: Cut) -> NDArray[np.uint8]:
    """Apply contrast around the patch's mean, then a gain for each channel."""
    pixels = patch.astype(np.float64)
    mean = pixels.mean()
    lit = ((pixels - mean) * cut.contrast + mean) * np.array(cut.gain)
    rounded: NDArray[np.uint8] = np.clip(np.rint(lit), 0, 255).astype(np.uint8)
    return rounded
