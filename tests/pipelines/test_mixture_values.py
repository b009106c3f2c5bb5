"""Mixtures give the values they gave at b0b6bbd, before they had one contract.

The digest covers rows, labels, partners, shares and shapes. Sums stand for the pixels, which
compilers may round differently.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.batch import Batch
from pipelines.decoders.memory import MemoryDecoder
from pipelines.loader import Loader
from pipelines.mixtures.base import Mixture
from pipelines.mixtures.clim import Clim, NeighborTable, RandomNeighbors
from pipelines.mixtures.image_mixture import ImageMixture, ImConfig
from pipelines.mixtures.unmix import UnMix
from pipelines.resolution import MultiScale
from pipelines.sampler import Sampler
from pipelines.sources.arrays import Arrays
from pipelines.sources.table import Table
from pipelines.step_maker import StepMaker
from pipelines.views import View, ViewPlan

ROWS, SIDE = 48, 36
MEAN, STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
VIEWS = (
    View(24, blur=0.5),
    View(24, jitter_prob=0.5),
    View(16, scale=(0.05, 0.4)),
    View(16, gray=0.5),
)
ROW = np.arange(ROWS, dtype=np.int32)
NEAR = NeighborTable(
    np.stack([(ROW + 1) % ROWS, (ROW + 3) % ROWS], 1),
    np.where(ROW % 5 == 0, 0, 2).astype(np.int32),
)
BOX = UnMix(0.0, 2.0)
OFTEN: dict[str, Any] = {
    **{"g_prob": 0.6, "r_prob": 0.6, "mask_prob": 0.6, "mask_size": 9, "r_pixel_decay": 0.5},
}
NAMES: Any = ("im", "im-global", "im-region")
PARTNERS: Any = ("group", "dataset")

Case = tuple[Mixture | None, int, dict[str, Any]]
"""Mixture, groups of the batch, fields of the view plan."""
CASES: dict[str, Case] = {
    "global": (UnMix(1.0), 4, {}),
    "region": (UnMix(0.0), 4, {}),
    "unmix": (UnMix(0.5), 4, {}),
    "unmix beta": (UnMix(0.3, 0.4), 2, {"mixed": (1,)}),
    "unmix whole batch": (UnMix(0.5), 2, {"mixed": (0, 1)}),
    "unmix per group": (UnMix(0.5, per_group=True), 4, {"mixed": (0, 1)}),
    "region chained": (UnMix(0.0, chained=True), 4, {"mixed": (0, 1, 2, 3)}),
    "region chained per group": (UnMix(0.0, per_group=True, chained=True), 4, {"mixed": (0, 2, 3)}),
    "region copies": (UnMix(0.0), 4, {"mixed": (0, 1, 2, 3), "copies": {2: 0, 3: 1}}),
    "unmix multi-scale": (
        UnMix(0.5),
        4,
        {"mixed": (0, 1), "resolution": MultiScale((20, 24, 28), 7)},
    ),
    "clim": (Clim(NEAR, BOX), 4, {}),
    "clim skip": (Clim(NEAR, BOX, skip_self_paired=True), 4, {"mixed": (0, 1)}),
    "clim mixup per group": (Clim(NEAR, UnMix(1.0, 2.0, per_group=True)), 4, {}),
    "clim random": (Clim(RandomNeighbors(ROWS), BOX), 2, {}),
    **{
        f"{name} {partner}": (ImageMixture(name, ImConfig(**OFTEN, partner=partner)), 4, {})
        for name in NAMES
        for partner in PARTNERS
    },
    "cutout": (ImageMixture("cutout", ImConfig(**OFTEN)), 4, {}),
    "cutout inside": (ImageMixture("cutout", ImConfig(**OFTEN, mask_inside=True)), 4, {}),
    "erasing": (ImageMixture("erasing", ImConfig(**OFTEN)), 4, {}),
    "none": (None, 4, {}),
}
# case -> digest, sums of steps 2, 3, 4 of rank 0 and of rank 1
VALUES: dict[str, tuple[str, list[float]]] = {
    "global": (
        "667e06d31b66bc5a",
        [26.989484, 120.662882, 54.583939, -6.148359, -105.930596, 324.078973],
    ),
    "region": (
        "d61c6d88e46f09bb",
        [29.575186, 112.439587, 60.361493, 14.917069, -126.260321, 339.885115],
    ),
    "unmix": (
        "bc4a69a762cd3c4a",
        [26.989484, 112.439587, 54.583939, -6.148359, -126.260321, 324.078973],
    ),
    "unmix beta": (
        "9789ae7b43b34294",
        [45.413001, 96.993569, 34.030264, 84.844463, -194.958362, 199.748995],
    ),
    "unmix whole batch": (
        "d9195fc01792e631",
        [31.260712, 171.979561, 79.50713, 72.691955, -208.703359, 295.99144],
    ),
    "unmix per group": (
        "360b8eba7dfc300d",
        [23.313787, 156.14273, 75.086727, 92.306701, -181.369877, 372.433639],
    ),
    "region chained": (
        "c7b38fb6d23bfd6e",
        [31.116014, 166.652525, 58.973462, 67.736056, -268.258183, 390.966494],
    ),
    "region chained per group": (
        "25fe342638c14da9",
        [39.105285, 99.868057, 49.192374, -25.41853, -68.700142, 356.282815],
    ),
    "region copies": (
        "e895632e57372889",
        [4.575398, 147.637094, 37.00387, 127.305518, -219.337188, 336.690115],
    ),
    "unmix multi-scale": (
        "0c285bec4c31971e",
        [-74.388627, 275.660937, -55.165209, -153.403707, -77.984421, -18.595614],
    ),
    "clim": (
        "115db662ff4bb84e",
        [275.616843, -106.833571, 87.187834, -11.699395, -61.517115, 365.53626],
    ),
    "clim skip": (
        "1a4bc6948f4d9a4b",
        [159.380146, -92.58706, 43.014983, -12.221107, -165.693494, 375.13804],
    ),
    "clim mixup per group": (
        "1e8e719590c59be0",
        [331.181409, -111.583576, 46.571197, -25.370422, -48.72256, 336.0592],
    ),
    "clim random": (
        "4db08a84a7840973",
        [48.083441, -8.709564, 45.708116, 17.750961, -109.775545, 218.554746],
    ),
    "im group": (
        "bcd693e95423378e",
        [21.633207, -35.106407, -99.305811, 26.915967, -82.346737, 246.642002],
    ),
    "im dataset": (
        "bcd693e95423378e",
        [76.130195, 36.297937, 93.264658, 37.648093, 11.352542, 78.372986],
    ),
    "im-global group": (
        "bcd693e95423378e",
        [0.788245, -75.048762, -75.270709, 36.26542, -102.944901, 182.985384],
    ),
    "im-global dataset": (
        "bcd693e95423378e",
        [115.221556, -30.217832, -13.730771, 35.943227, -50.308505, 199.277992],
    ),
    "im-region group": (
        "bcd693e95423378e",
        [100.233066, 5.249566, 98.792666, 14.596306, -37.061809, 199.416277],
    ),
    "im-region dataset": (
        "bcd693e95423378e",
        [-5.695191, 102.828236, 183.951178, 40.192366, -85.956308, -8.972402],
    ),
    "cutout": (
        "bcd693e95423378e",
        [78.267474, 50.492751, 12.358091, 6.041245, -131.562242, 182.968078],
    ),
    "cutout inside": (
        "bcd693e95423378e",
        [83.074175, 87.152775, 2.64204, 3.980361, -94.965568, 197.837064],
    ),
    "erasing": (
        "bcd693e95423378e",
        [19.715272, 23.801506, 2.8369, 6.147534, -114.665672, 186.730321],
    ),
    "none": (
        "bcd693e95423378e",
        [29.451672, 64.674519, 31.158413, 30.399734, -121.730848, 218.857022],
    ),
}


def batches_of(case: str) -> list[Batch]:
    """Three steps of each of two ranks."""
    mixture, groups, plan = CASES[case]
    images = np.random.default_rng(0).integers(0, 256, (ROWS, SIDE, SIDE, 3), np.uint8)
    side = np.full(ROWS, SIDE, np.int32)
    table = Table(np.arange(ROWS) % 5, side, side, Arrays("test", images))
    decoder = MemoryDecoder(table, device=torch.device("cpu"))
    made: list[Batch] = []
    for rank in (0, 1):
        sampler, views = Sampler(ROWS, 16, 7, rank, 2), ViewPlan(VIEWS, **plan)
        maker = StepMaker(table, sampler, views, decoder, MEAN, STD, mixture=mixture, groups=groups)
        made += Loader(maker).batches(2, 5)
    return made


def weighed(x: torch.Tensor) -> float:
    """A sum that no two pixels can exchange in silence."""
    flat = x.double().flatten()
    return float((flat * torch.cos(torch.arange(len(flat), dtype=torch.float64))).sum())


def summary(batches: Sequence[Batch]) -> tuple[str, list[float]]:
    digest, sums = hashlib.sha256(), []
    for batch in batches:
        for rows in (batch.index, batch.label, batch.position):
            digest.update(rows.numpy().tobytes())
        shapes = [tuple(view.shape) for view in batch.views]
        digest.update(repr((batch.seed, batch.step, shapes)).encode())
        for m in batch.mixed:
            shares = m.partner.tolist(), m.lam.tolist()
            digest.update(repr((m.view, *shares, tuple(m.image.shape))).encode())
        sums.append(sum(map(weighed, (*batch.views, *(m.image for m in batch.mixed)))))
    return digest.hexdigest()[:16], sums


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_before(case: str) -> None:
    digest, sums = summary(batches_of(case))
    assert digest == VALUES[case][0]
    assert sums == pytest.approx(VALUES[case][1], rel=1e-4, abs=1e-2)
