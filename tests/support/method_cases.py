"""A tiny backbone, fixed batches, and the table of methods that the tests of ``models`` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from models import distributed
from models.methods import METHODS, Method
from models.methods.base import Setup
from models.methods.build import build_method
from pipelines.batch import Batch, Mixed

torch.set_num_threads(1)  # the networks are tiny and two test processes share two cores


class TinyNet(nn.Module):
    """Two convolutions with batch norm: (n, c, h, w) -> (n, 16 * width)."""

    def __init__(self, in_chans: int = 3, width: float = 1.0) -> None:
        super().__init__()
        c, self.num_features = in_chans, round(16 * width)
        self.layers = nn.Sequential(
            nn.Conv2d(c, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            nn.Conv2d(8, self.num_features, 3, 2, 1, bias=False),
            nn.BatchNorm2d(self.num_features), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean((2, 3))


CROSS = ("cross",)
"""Mixed Barlow Twins' mixture: rows of view 0 with rows of view 1."""


@dataclass(frozen=True)
class Case:
    method: str
    options: tuple[tuple[str, Any], ...] = ()
    bn: str = "sync"
    mixed: bool = True
    sizes: tuple[int, ...] = (8, 8)
    rows: int = 16
    groups: int = 4
    mix_groups: int | None = None
    names: tuple[str, ...] = ("",)
    """Names of the mixtures of each mixed view; i-Mix's permutes, and its terms stand alone."""
    among: str = ""
    """sdmp or patchmix: view 1 is mixed as the query, view 0 as the key."""

    @property
    def mixes(self) -> bool:
        """Whether the method has a loss for mixtures."""
        return METHODS[self.method].settings.supports_unmix

    def __str__(self) -> str:
        options = "-".join(f"{k}={v}" for k, v in self.options)
        ranges = f"-in-{self.mix_groups}" if self.mix_groups else ""
        mixture = self.among or ("mixed" if self.mixed else "none")
        return f"{self.method}-{options}-{self.bn}-{mixture}{ranges}{'-'.join(self.names)}"


SMALL: dict[str, dict[str, Any]] = {
    "moco": {"dim": 8, "queue": 48, "momentum": 0.9},
    "simclr": {"dim": 8, "temperature": 0.5},
    "byol": {"dim": 8, "hidden": 16, "momentum": 0.9},
    "swav": {"prototypes": 6, "dim": 8, "hidden": 16, "freeze_steps": 3},
    "simsiam": {"dim": 8, "hidden": 4},
    "barlow": {"dim": 8, "hidden": 16},
    "vicreg": {"dim": 8, "hidden": 16, "invariance": 1.0, "variance": 1.0, "covariance": 0.04},
    "moco-v3": {"dim": 8, "hidden": 16, "momentum": 0.9, "temperature": 0.2},
    "dino": {"prototypes": 6, "dim": 8, "hidden": 16, "momentum": 0.9, "temperature_epochs": 2},
    "wmse": {"dim": 4, "hidden": 16, "sub_batch": 8},
    "cmc": {"dim": 8, "negatives": 12},
    "insdis": {"dim": 8, "negatives": 12},
}
CROPS = (8, 8, 4, 4)
SIZES = {"swav": CROPS, "dino": CROPS, "cmc": (8,), "insdis": (8,)}
"""Sides of the views that a method is given, where they are not two of 8."""
NUM_ROWS = 20
"""Images of the data set; a batch holds the first 16."""


RELEASED = {"reverse": "code", "chained_lam": True, "queue_mixtures": True}


def _cases() -> list[Case]:
    rows: list[tuple[str, dict[str, Any], str, tuple[int, ...]]] = [
        ("moco", {}, "group", (8, 8)),
        ("moco", {"symmetric": True, "queue": 40}, "group", (8, 8)),
        ("moco", {"mlp": False}, "sync", (8, 8)),
        ("moco", {"layers": 3}, "group", (8, 8)),
        ("simclr", {}, "sync", (8, 8)),
        ("simclr", {"head_bn": True}, "sync", (8, 8)),
        ("simclr", {"head_bn": True, "last_bias": False}, "sync", (8, 8)),
        ("byol", {}, "sync", (8, 8)),
        ("byol", {"last_bias": True}, "sync", (8, 8)),
        ("byol", {"mix_online": True}, "group", (8, 8)),
        ("swav", {}, "sync", CROPS),
        ("swav", {"queue": 24, "queue_start_epoch": 1, "reverse": "code"}, "sync", CROPS),
        ("swav", {"reverse": "predict"}, "sync", (8, 8)),
        ("simsiam", {}, "sync", (8, 8)),
        ("simsiam", {"layers": 2}, "group", (8, 8)),
        ("barlow", {}, "sync", (8, 8)),
        ("vicreg", {}, "sync", (8, 8)),
        ("moco-v3", {}, "sync", (8, 8)),
        ("dino", {}, "sync", CROPS),
        ("dino", {"head_bn": True}, "group", (8, 8)),
        ("swav", RELEASED | {"queue": 24, "queue_start_epoch": 1}, "sync", CROPS),
        ("moco", {"symmetric": True, "mix_each": True}, "group", (8, 8)),
        ("wmse", {}, "sync", (8, 8)),
        ("wmse", {"permutations": 2}, "group", (8, 8, 4, 4)),
        ("cmc", {}, "group", (8,)),
        ("cmc", {"softmax": True, "space": "ycbcr", "width": 1.0}, "sync", (8,)),
        ("insdis", {}, "sync", (8,)),
        ("insdis", {"softmax": True}, "group", (8,)),
    ]
    cases = [
        Case(name, tuple(options.items()), bn, mixed, sizes)
        for name, options, bn, sizes in rows
        for mixed in ((False, True) if METHODS[name].settings.supports_unmix else (False,))
    ]
    cases += [Case("moco", (("symmetric", True), ("queue", 40)), "group", mix_groups=2)]
    return [*cases, Case("barlow", names=CROSS)]


CASES = _cases()
I_MIX = ("imix",)
NAMED = [
    Case("moco", (("batch_keys", True),), "group", names=I_MIX),
    Case("moco", (("symmetric", True), ("mix_each", True), ("batch_keys", True)), names=I_MIX),
    Case("simclr", (("n_pair", True),), names=I_MIX),
    Case("simclr", (("n_pair", True),), mixed=False),
    *(Case(name, names=I_MIX) for name in ("byol", "simsiam", "vicreg")),
    *(Case(name, sizes=SIZES.get(name, (8, 8)), names=("", "mask")) for name in ("moco", "wmse")),
    Case("swav", sizes=CROPS, names=("", "mask")),
]
"""i-Mix, and two mixtures of each mixed view (``--mix unmix+mixmask``)."""
AMONG = [Case("moco-v3", among="sdmp"), Case("moco-v3", among="patchmix")]
"""Mixtures that are queries and keys have a loss of their own."""
FEW = list({case.method: case for case in reversed(CASES) if case.mixed == case.mixes}.values())
"""Each method with its defaults, with a mixture if it takes any; tests/faults/scale.py does all."""


def build(case: Case, dtype: torch.dtype = torch.float64) -> Method:
    torch.manual_seed(0)
    config = METHODS[case.method].settings(**(SMALL[case.method] | dict(case.options)))
    backbone = METHODS[case.method].method.build_backbone(config, TinyNet)
    method = build_method(
        case.method,
        config,
        backbone,
        Setup(
            bn=case.bn,
            group_size=case.rows // case.groups,
            batch_size=case.rows,
            seed=0,
            steps_per_epoch=2,
            num_views=len(case.sizes),
            num_rows=NUM_ROWS,
            mean=(0.4, 0.5, 0.6),
            std=(0.25, 0.2, 0.25),
            mix_terms="replace" if case.names == I_MIX else "add",
        ),
    )
    return method.to(dtype)


def mixed_views(case: Case) -> Sequence[int]:
    """The views that the case's method has mixed."""
    if not case.mixed:
        return ()
    if case.among:
        return (1, 0)
    if case.method in ("swav", "dino"):
        return range(0, len(case.sizes), 2)
    return (0, 1) if dict(case.options).get("mix_each") else (0,)


def mirrored(rows: int, groups: int) -> Tensor:
    """Each row's mirror image within its group."""
    return torch.arange(rows).view(groups, -1).flip(1).flatten()


def make_batch(
    case: Case,
    step: int = 0,
    dtype: torch.dtype = torch.float64,
    lam: Tensor | None = None,
    data: int | None = None,
) -> Batch:
    """The global batch of a step; with ``lam`` None each group draws its own, if it may."""
    generator = torch.Generator().manual_seed(1000 + (step if data is None else data))
    base = torch.randn(case.rows, 3, 8, 8, generator=generator, dtype=torch.float64)
    views = []
    for size in case.sizes:
        noise = torch.randn(case.rows, 3, size, size, generator=generator, dtype=torch.float64)
        views.append((base[:, :, :size, :size] + 0.3 * noise).to(dtype))
    groups = case.mix_groups or case.groups
    partner = mirrored(case.rows, groups)
    if case.among == "patchmix":
        partner = torch.arange(case.rows).view(groups, -1).roll(-1, 1).flatten()
    if lam is None:
        lam = torch.rand(groups, generator=generator, dtype=torch.float64)
        if not METHODS[case.method].settings.mixes_groups:
            lam = lam[:1].expand(groups)
        lam = lam.repeat_interleave(case.rows // groups)
    lam = lam.to(dtype)
    if case.names == I_MIX:
        partner = partner.view(groups, -1).roll(1, 1).flatten()
    mixed = []
    for v in mixed_views(case):
        for name in (case.among,) if case.among else case.names:
            own = 1 - lam if name == "mask" else lam
            share = own[:, None, None, None]
            of = 1 - v if case.names == CROSS else v
            image = share * views[v] + (1 - share) * views[of][partner]
            other, key = None if of == v else of, bool(case.among) and v == 0
            mixed.append(Mixed(v, image, partner, own, name, other, key))
    rows = torch.arange(case.rows)
    return Batch(tuple(views), rows, rows % 3, rows, seed=0, step=step, mixed=tuple(mixed))


def own_part(batch: Batch) -> Batch:
    """This rank's rows of a global batch."""
    n = len(batch.index) // distributed.world_size()
    start = n * distributed.rank()
    own = slice(start, start + n)
    mixed = tuple(
        replace(m, image=m.image[own], partner=m.partner[own] - start, lam=m.lam[own])
        for m in batch.mixed
    )
    return Batch(
        tuple(v[own] for v in batch.views), batch.index[own], batch.label[own],
        batch.position[own], batch.seed, batch.step, mixed,
    )  # fmt: skip


def mean_over_ranks(x: Tensor) -> Tensor:
    return distributed.all_reduce_sum(x.detach()) / distributed.world_size()


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def train(case: Case, steps: int = 6) -> dict[str, Tensor]:
    """Train a case as DDP would: what ``train_on`` returns."""
    return train_on(build(case), lambda step: own_part(make_batch(case, step)), steps)


def train_on(method: Method, part: Callable[[int], Batch], steps: int) -> dict[str, Tensor]:
    """Train as DDP would on this rank's part of each step's batch.

    Returns the losses and gradients of the first and the last step, and all state at the end.
    """
    optimizer = torch.optim.SGD(method.parameters(), lr=0.05, momentum=0.9)
    out: dict[str, Tensor] = {}
    for step in range(steps):
        terms = method(part(step))
        total(terms).backward()
        gradients = average_gradients(method)
        if step in (0, steps - 1):
            when = "first" if step == 0 else "last"
            out |= {f"{when}/loss/{k}": mean_over_ranks(v) for k, v in terms.items()}
            out |= {f"{when}/grad/{k}": v.clone() for k, v in gradients.items()}
        method.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(step / steps)
    distributed.average_buffers(method)
    return out | {f"last/state/{k}": v for k, v in method.state_dict().items()}


def average_gradients(method: Method) -> dict[str, Tensor]:
    """Replace each gradient by its mean over the ranks, in one go, and return them by name."""
    gradients = {k: v.grad for k, v in method.named_parameters() if v.grad is not None}
    flat = mean_over_ranks(torch.cat([g.flatten() for g in gradients.values()]))
    pieces = flat.split([g.numel() for g in gradients.values()])
    for gradient, mean in zip(gradients.values(), pieces, strict=True):
        gradient.copy_(mean.view_as(gradient))
    return gradients


def largest_gap(a: dict[str, Tensor], b: dict[str, Tensor], prefix: str) -> float:
    """Largest absolute difference over the entries under ``prefix``."""
    assert a.keys() == b.keys()
    names = [k for k in a if k.startswith(prefix)]
    assert names
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in names)


def assert_law_4(alone: dict[str, Tensor], ranks: Sequence[dict[str, Tensor]]) -> None:
    """What each rank found is what one process found; and all ranks hold the same bits."""
    for many in ranks:
        assert largest_gap(alone, many, "first/") < 1e-9
        assert largest_gap(alone, many, "last/") < 1e-6
    assert not differences(ranks)


def differences(ranks: Sequence[dict[str, Tensor]]) -> set[str]:
    """Which parameters, queues, banks and centers are not the same on all ranks, bit for bit."""
    return {
        name
        for other in ranks[1:]
        for name, value in ranks[0].items()
        if name.startswith("last/state/") and not torch.equal(value, other[name])
    }


def _own_rows_only(x: Tensor) -> Tensor:
    """A gather that was forgotten: the right shape, without the other ranks' rows."""
    return x.repeat(distributed.world_size(), *[1] * (x.ndim - 1))


def sabotages() -> dict[str, tuple[Case, Any, Callable[[Tensor], Tensor]]]:
    from models.methods import barlow, moco_v3, simclr, vicreg, wmse
    from models.modules import center, memory_bank, prototypes

    def without_gradient(x: Tensor) -> Tensor:
        return distributed.gather(x.detach())

    def own_gradient_only(x: Tensor) -> Tensor:
        rows = distributed.gather(x.detach()).clone()
        rows[distributed.own_rows(len(x), x.device)] = x
        return rows

    return {
        "simclr forgets to gather": (Case("simclr"), simclr, _own_rows_only),
        "simclr gathers without gradient": (Case("simclr"), simclr, without_gradient),
        "barlow forgets to gather": (Case("barlow"), barlow, _own_rows_only),
        "barlow's gather has its own gradient only": (Case("barlow"), barlow, own_gradient_only),
        "vicreg forgets to gather": (Case("vicreg"), vicreg, _own_rows_only),
        "vicreg gathers without gradient": (Case("vicreg"), vicreg, without_gradient),
        "moco-v3 forgets to gather": (Case("moco-v3"), moco_v3, _own_rows_only),
        "dino's center forgets to gather": (Case("dino", sizes=CROPS), center, _own_rows_only),
        "swav forgets to gather": (Case("swav", sizes=CROPS), prototypes, _own_rows_only),
        "wmse forgets to gather": (Case("wmse"), wmse, _own_rows_only),
        "cmc's banks forget to gather": (
            Case("cmc", bn="group", sizes=(8,), mixed=False),
            memory_bank,
            _own_rows_only,
        ),
        "moco's queue forgets to gather": (Case("moco", bn="group"), distributed, _own_rows_only),
        "swav's queue forgets to gather": (
            Case("swav", (("queue", 24), ("queue_start_epoch", 1)), "group", sizes=CROPS),
            distributed,
            _own_rows_only,
        ),
        "batch norm forgets to gather": (Case("byol"), distributed, _own_rows_only),
    }


def work(cases: Sequence[Case], broken: bool) -> dict[str, Any]:
    """What one process of a group does: each case, then, if asked, what must go wrong."""
    results: dict[str, Any] = {"cases": {str(case): train(case) for case in cases}}
    results["sabotaged"] = {}
    for name, (case, module, forgetful) in sabotages().items() if broken else ():
        gather = module.gather
        module.gather = forgetful
        results["sabotaged"][name] = train(case)
        module.gather = gather
    return results | {"parts": parts()}


def parts() -> dict[str, Tensor]:
    """The collectives and the batch norm by themselves, this rank's part of a fixed problem."""
    from models.modules.batchnorm import BatchNorm

    out: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64) * 3 + 50
    weight = torch.randn(8, 3, 4, 4, generator=generator, dtype=torch.float64)
    n = 8 // distributed.world_size()
    own = slice(n * distributed.rank(), n * (distributed.rank() + 1))
    leaf = x[own].clone().requires_grad_()
    norm = BatchNorm(3, mode="sync", group_size=2).double()
    y = norm(leaf)
    (y * weight[own]).sum().backward()
    assert leaf.grad is not None
    out |= {"bn": y.detach(), "bn/grad": leaf.grad}
    out |= {"bn/mean": norm.running_mean, "bn/var": norm.running_var}
    order = torch.randperm(8, generator=generator).numpy()
    out["exchange"] = distributed.exchange(x[own], order)
    out["exchange/back"] = distributed.exchange(out["exchange"], order.argsort()) - x[own]
    last = x[own].contiguous(memory_format=torch.channels_last)
    out["exchange/last"] = distributed.exchange(last, order)
    leaf = x[own].clone().requires_grad_()
    (distributed.gather(leaf) * weight).sum().backward()
    assert leaf.grad is not None
    out["gather/grad"] = leaf.grad / distributed.world_size()
    leaf = x[own].clone().requires_grad_()
    joint = distributed.all_reduce_sum(leaf.sum())
    (joint**2).backward()
    assert leaf.grad is not None
    out["sum/grad"] = leaf.grad / distributed.world_size()
    return out
