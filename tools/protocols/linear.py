"""``eval.py linear``: linear layers on the frozen backbone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import torch

from models.distributed import gather
from models.methods import Method
from tools.protocols.base import OfRun, Subject, percent
from tools.protocols.feed import batch_that_fits, feed
from tools.protocols.sweep import show
from tools.run import scores
from tools.run.features import evaluating
from tools.run.heads import HeadPlan, Heads, OptimizerName, ScheduleName

PresetName = Literal["moco", "swav", "swav-cifar", "cmc", "whitening"]
PRESETS: dict[PresetName, tuple[float, HeadPlan]] = {
    # He 2020, arXiv:1911.05722, section 4.1; Un-Mix's MoCo on ImageNet
    "moco": (30.0, HeadPlan(100, 256, schedule="step", milestones=(60, 80))),
    # Caron 2020, arXiv:2006.09882; Un-Mix's SwAV, in batches of 32 on CIFAR
    "swav": (0.3, HeadPlan(100, 256, weight_decay=1e-6)),
    "swav-cifar": (0.3, HeadPlan(100, 32, weight_decay=1e-6)),
    # Tian 2019, arXiv:1906.05849, and the InsDis and MoCo that came with it
    "cmc": (30.0, HeadPlan(60, 256, schedule="step", milestones=(30, 40, 50), factor=0.2)),
    # Ermolov 2020, arXiv:2007.06346: W-MSE, SimCLR and BYOL on small images
    "whitening": (0.01, HeadPlan(500, 1000, "adam", weight_decay=5e-6, schedule="exponential")),
}
"""First learning rate and the rest of each published protocol."""


@dataclass(frozen=True, kw_only=True)
class Linear(OfRun):
    """A linear layer on the frozen backbone; several learning rates are one pass over the images.

    Flags that are left out are the preset's. Papers train on --images augmented.
    """

    preset: PresetName = "swav"
    """Published schedule: moco | swav | swav-cifar | cmc | whitening (Adam)."""
    images: Literal["cached", "augmented"] = "cached"
    """Features of each image encoded once, or of a new crop and flip of it in each epoch."""
    lr: tuple[float, ...] = ()
    """First learning rate, for the batch as it is; several are a sweep (none: the preset's)."""
    epochs: int | None = None
    """Passes over the training images."""
    batch_size: int | None = None
    """Rows of a step over all processes; also images encoded at a time by each."""
    optimizer: OptimizerName | None = None
    """SGD or Adam."""
    momentum: float | None = None
    """Of SGD."""
    weight_decay: float | None = None
    """Weight decay (not decoupled)."""
    schedule: ScheduleName | None = None
    """Course of the learning rate: to 0 by a cosine, by steps, or to 1e-6 exponentially."""
    milestones: tuple[int, ...] = ()
    """Epochs after which --schedule step multiplies the rate (none: the preset's, stretched)."""
    factor: float | None = None
    """Factor of each such step."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the area that the crops of --images augmented cover."""
    seed: int = 0
    """Key of the layer's first weights, of the order of rows and of the crops."""

    def __post_init__(self) -> None:
        plan, lrs = self.plan()
        if min(plan.epochs, plan.batch_size) < 1 or not min(lrs) > 0:
            raise ValueError("--epochs, --batch-size and --lr must be above 0")
        if list(self.milestones) != sorted(set(self.milestones)) or 0 in self.milestones:
            raise ValueError("--milestones are epochs from 1 on, and rise")
        if plan.schedule == "step" and not plan.milestones:
            raise ValueError("--schedule step needs --milestones EPOCH ...")
        if (self.milestones or self.factor is not None) and plan.schedule != "step":
            raise ValueError("--milestones and --factor go with --schedule step")
        if self.momentum is not None and plan.optimizer != "sgd":
            raise ValueError("--momentum goes with --optimizer sgd")
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError("--crop-scale takes the least and the most, above 0 and at most 1")

    def plan(self) -> tuple[HeadPlan, tuple[float, ...]]:
        """Return the schedule and the first learning rates: the preset's and the flags'."""
        lr, plan = PRESETS[self.preset]
        names = [f.name for f in dataclasses.fields(HeadPlan) if hasattr(self, f.name)]
        given = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in given.items() if value not in (None, ())}
        epochs = given.get("epochs", plan.epochs)
        drops = tuple(max(round(m * epochs / plan.epochs), 1) for m in plan.milestones)
        given = {"milestones": drops} | given
        return dataclasses.replace(plan, **given), tuple(dict.fromkeys(self.lr)) or (lr,)

    def evaluate(self, command: str) -> None:
        """Encode the images, train the layers, score them."""
        plan, lrs = self.plan()
        with self.opened() as opened:
            subject = opened.labelled()
            y = subject.labels(subject.val)
            method = subject.method()
            if self.images == "cached":
                every = self._cached(subject, method, y)
            else:
                heads = self._augmented(subject, method)
                x = subject.features(method, method.features, subject.val, plan.batch_size)
                every = scores.linear_scores(heads, lrs, x, y)
            results = [(self.protocol(lr), every[lr]) for lr in lrs if lr in every]
            for protocol, numbers in results:
                subject.append(self.run, protocol | numbers, command)
            self._tell(subject, results, lrs)

    def _cached(
        self, subject: Subject, method: Method, y: torch.Tensor
    ) -> dict[float, dict[str, float]]:
        plan, lrs = self.plan()
        x_train, x = (
            subject.features(method, method.features, table, max(plan.batch_size, 256))
            for table in (subject.train, subject.val)
        )
        y_train = subject.labels(subject.train)
        return scores.linear_sweep(x_train, y_train, x, y, lrs=lrs, plan=plan, seed=self.seed)

    def _augmented(self, subject: Subject, method: Method) -> Heads:
        """Train on crops; every process holds the same layers and sees all processes' features."""
        plan, lrs = self.plan()
        accelerator = subject.accelerator
        rows = len(subject.train)
        size = batch_that_fits(plan.batch_size, rows, accelerator.num_processes)
        loader = feed(subject, subject.train, size, self.seed, self.crop_scale)
        steps = loader.order.steps_per_epoch
        num_classes = scores.count_classes(*map(subject.labels, (subject.train, subject.val)))
        generator = torch.Generator().manual_seed(self.seed)
        heads: Heads | None = None
        with evaluating(method):
            for batch in loader.batches(0, plan.epochs * steps):
                with torch.no_grad(), accelerator.autocast():
                    x = method.features(batch.views[0]).float()
                x, labels = gather(x), gather(batch.label)
                if heads is None:
                    heads = Heads(
                        x.shape[1], num_classes, lrs, plan, steps, generator, accelerator.device
                    )
                heads.step(x, labels)
                subject.progress(batch.step + 1, plan.epochs * steps)
        assert heads is not None
        return heads

    def protocol(self, lr: float) -> dict[str, Any]:
        """Return what the score of one learning rate depends on."""
        plan, _ = self.plan()
        numbers = dataclasses.asdict(plan)
        if plan.schedule != "step":
            del numbers["milestones"], numbers["factor"]
        if plan.schedule != "exponential":
            del numbers["final_lr"]
        if plan.optimizer != "sgd":
            del numbers["momentum"]
        numbers |= {"lr": lr, "images": self.images, "probe_seed": self.seed}
        if self.images == "augmented":
            numbers["crop_scale"] = list(self.crop_scale)
        return {"protocol": "linear", "features": "backbone"} | numbers

    def _tell(
        self,
        subject: Subject,
        results: list[tuple[dict[str, Any], dict[str, float]]],
        lrs: tuple[float, ...],
    ) -> None:
        plan, _ = self.plan()
        how = f"{plan.epochs} epochs, {self.images} images, {subject.at}"
        if len(lrs) == 1:
            numbers = results[0][1]
            top1, top5 = percent(numbers["linear_top1"]), percent(numbers["linear_top5"])
            subject.tell(f"linear top-1 {top1}, top-5 {top5} (lr {lrs[0]:g}, {how})")
            return
        subject.tell(show(results, ("lr",), f"linear, {how}"))
        diverged = [f"{lr:g}" for lr in lrs if lr not in [p["lr"] for p, _ in results]]
        if diverged:
            subject.tell(f"diverged, so without a score: lr {' '.join(diverged)}")
