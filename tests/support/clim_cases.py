"""CLIM batches, in which every view holds anchors, then neighbours, and a worker for law 4."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from clustering_cases import tables
from launch_cases import flags, recorded_rows
from method_cases import SMALL, TinyNet, train_on

from models import distributed
from models.losses.clim import ClimLoss
from models.methods import METHODS, Method
from models.methods.base import Setup
from models.methods.build import build_method
from pipelines.batch import Batch, Mixed

ROWS, GROUPS, SIZE = 16, 4, 8


@dataclass(frozen=True)
class ClimCase:
    method: str
    mode: str | None = "add"
    denominator: str = "separate"
    bn: str = "group"
    options: tuple[tuple[str, Any], ...] | None = None
    alone: tuple[int, ...] = (3, 9)

    def __str__(self) -> str:
        return f"{self.method}-{self.mode}-{self.denominator}-{self.bn}"


CASES = [
    ClimCase("moco"),
    ClimCase("moco", mode="csml", denominator="shared"),
    ClimCase("moco", mode="replace", bn="sync"),
    ClimCase("byol", bn="sync"),
    ClimCase("byol", mode="replace"),
]


def build(case: ClimCase) -> Method:
    options = case.options
    if options is None:
        options = (("mix_online", True),) if case.method == "byol" else ()
    torch.manual_seed(0)
    return build_method(
        case.method,
        METHODS[case.method].settings(**SMALL[case.method] | dict(options)),
        TinyNet(),
        Setup(
            bn=case.bn,  # type: ignore[arg-type]
            group_size=ROWS // GROUPS,
            batch_size=ROWS,
            seed=0,
            steps_per_epoch=4,
            clim=ClimLoss(case.mode, 0.7, case.denominator) if case.mode else None,  # type: ignore[arg-type]
        ),
    ).double()


def make_batch(case: ClimCase, step: int) -> Batch:
    """A global batch whose neighbours resemble their anchors, mixed with shares of their own."""
    generator = torch.Generator().manual_seed(step)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    anchors = noise(ROWS, 3, SIZE, SIZE)
    base = torch.cat([anchors, anchors + 0.5 * noise(ROWS, 3, SIZE, SIZE)])
    views = tuple(base + 0.3 * noise(2 * ROWS, 3, SIZE, SIZE) for _ in range(2))
    lam = torch.rand(ROWS, generator=generator, dtype=torch.float64)
    share = lam[:, None, None, None]
    rows = torch.arange(ROWS)
    partner = rows + ROWS
    partner[list(case.alone)] = rows[list(case.alone)]
    mixed = Mixed(0, share * views[0][:ROWS] + (1 - share) * views[0][ROWS:], partner, lam)
    return Batch(views, rows, rows % 3, rows, seed=0, step=step, mixed=(mixed,))


def own_part(batch: Batch) -> Batch:
    """This rank's anchors, then their neighbours."""
    world = distributed.world_size()
    n = ROWS // world
    start = n * distributed.rank()
    own = slice(start, start + n)
    (m,) = batch.mixed
    partner = torch.where(m.partner < ROWS, m.partner - start, m.partner - ROWS - start + n)
    views = tuple(torch.cat([view[:ROWS][own], view[ROWS:][own]]) for view in batch.views)
    mixed = Mixed(0, m.image[own], partner[own], m.lam[own])
    return Batch(
        views, batch.index[own], batch.label[own], batch.position[own], 0, batch.step, (mixed,)
    )


def train(case: ClimCase, steps: int = 6) -> dict[str, torch.Tensor]:
    """Train a case as DDP would: what ``method_cases.train_on`` returns."""
    return train_on(build(case), lambda step: own_part(make_batch(case, step)), steps)


def run_flags(toy: Path, output: Path) -> tuple[str, ...]:
    """A run that looks for neighbours after its first epoch of two steps, and stops after four."""
    clim = ("--mix", "clim", "--clim.neighbours", "6", "--clim.clusters", "5")
    return flags(toy, output, "moco", *clim, "--clim.start-epoch", "1", "--limit-steps", "4")


def work(toy: Path, folder: Path) -> dict[str, Any]:
    """What one process of a group does: every case, the search, and a whole run."""
    results: dict[str, Any] = {"tables": tables()}
    results["cases"] = {str(case): train(case) for case in CASES}
    forgotten = distributed.exchange
    distributed.exchange = lambda x, order: x  # the keys' groups stay as they are
    results["sabotaged"] = train(CASES[0])
    distributed.exchange = forgotten
    recorded_rows(*run_flags(toy, folder / "many"), double=True)
    return results
