"""CLIM batches, in which every view holds anchors, then neighbours; and law 4's worker for them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from launch_cases import flags, recorded_rows
from method_cases import SMALL, TinyNet, mean_over_ranks, total

from models import distributed
from models.clim import ClimLoss
from models.methods import METHODS, Method, build_method
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
        METHODS[case.method][1](**SMALL[case.method] | dict(options)),
        TinyNet(),
        bn=case.bn,  # type: ignore[arg-type]
        group_size=ROWS // GROUPS,
        batch_size=ROWS,
        seed=0,
        steps_per_epoch=4,
        clim=ClimLoss(case.mode, 0.7, case.denominator) if case.mode else None,  # type: ignore[arg-type]
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


def train(case: ClimCase, steps: int = 10) -> dict[str, torch.Tensor]:
    """Train as DDP would; the first loss and gradients, and all state after the last step."""
    method = build(case)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    out: dict[str, torch.Tensor] = {}
    for step in range(steps):
        terms = method(own_part(make_batch(case, step)))
        total(terms).backward()
        for name, parameter in method.named_parameters():
            if parameter.grad is not None:
                parameter.grad = mean_over_ranks(parameter.grad)
                if step == 0:
                    out[f"first/grad/{name}"] = parameter.grad.clone()
        if step in (0, steps - 1):
            when = "first" if step == 0 else "last"
            out |= {f"{when}/loss/{k}": mean_over_ranks(v) for k, v in terms.items()}
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step / steps)
    distributed.average_buffers(method)
    return out | {f"last/state/{k}": v for k, v in method.state_dict().items()}


def run_flags(toy: Path, output: Path) -> tuple[str, ...]:
    """A run that looks for neighbours after its first epoch of two steps, and stops after four."""
    clim = ("--mix", "clim", "--clim.neighbours", "6", "--clim.clusters", "5")
    return flags(toy, output, "moco", *clim, "--clim.start-epoch", "1", "--limit-steps", "4")


def worker(rank: int, world: int, toy: Path, folder: Path) -> None:
    """One of ``world`` gloo processes: every case, the search, and a whole run."""
    from test_search import tables

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    results: dict[str, Any] = {"world_size": distributed.world_size(), "tables": tables()}
    results["cases"] = {str(case): train(case) for case in CASES}
    forgotten = distributed.exchange
    distributed.exchange = lambda x, order: x  # the keys' groups stay as they are
    results["sabotaged"] = train(CASES[0])
    distributed.exchange = forgotten
    torch.save(results, folder / f"{rank}.pt")
    recorded_rows(*run_flags(toy, folder / "many"), double=True)  # ends the group
