"""``eval.py linear``: linear probes of the frozen backbone."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tools.evaluation.base import FrozenScore
from tools.evaluation.results import percent
from tools.scoring.plan import HeadPlan, OptimizerName, ScheduleName

if TYPE_CHECKING:
    from torch import Tensor

    from models.methods import Method
    from tools.evaluation.evaluated_run import EvaluatedRun
    from tools.scoring.probe import Heads

PresetName = Literal[
    "moco", "swav", "swav-cifar", "cmc", "cmc-imagenet100", "insdis", "insdis-imagenet100",
    "whitening",
]  # fmt: skip
Views = Literal["plain", "insdis"]


@dataclass(frozen=True)
class Preset:
    """A published linear probe."""

    lr: float
    """Initial learning rate."""
    plan: HeadPlan
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Share of the area that a training crop covers."""
    views: Views = "plain"
    """Colours of the training crops."""
    std: tuple[float, ...] | None = None
    """Standard deviation that images are divided by (None: that of pre-training)."""


_SWAV = HeadPlan(100, 256, weight_decay=1e-6)
_CMC = HeadPlan(60, 256, schedule="step", milestones=(30, 40, 50), factor=0.2)
PRESETS: dict[PresetName, Preset] = {
    # He 2020, arXiv:1911.05722, section 4.1; Un-Mix's MoCo on ImageNet
    "moco": Preset(30.0, HeadPlan(100, 256, schedule="step", milestones=(60, 80))),
    # Caron 2020, arXiv:2006.09882
    "swav": Preset(0.3, _SWAV),
    # Shen 2022, arXiv:2003.05438: SwAV's released CIFAR script, for both CIFARs
    "swav-cifar": Preset(
        0.3, dataclasses.replace(_SWAV, batch_size=32), std=(0.2470, 0.2435, 0.2616)
    ),
    # Tian 2019, arXiv:1906.05849; InsDis and MoCo of the same code; Shen 2020, 2003.05438v1
    "cmc": Preset(30.0, _CMC),
    "cmc-imagenet100": Preset(30.0, _CMC, (0.2, 1.0)),
    "insdis": Preset(30.0, _CMC, views="insdis"),
    "insdis-imagenet100": Preset(10.0, _CMC, (0.2, 1.0), "insdis"),
    # Ermolov 2020, arXiv:2007.06346: W-MSE, SimCLR and BYOL on small images
    "whitening": Preset(
        0.01, HeadPlan(500, 1000, "adam", weight_decay=5e-6, schedule="exponential")
    ),
}
"""The published protocols."""


@dataclass(frozen=True, kw_only=True)
class Linear(FrozenScore):
    """Train a linear layer on the frozen backbone; several learning rates share the same pass.

    Flags that are left out take the preset's values. Papers train on --images augmented.
    """

    preset: PresetName = "swav"
    """Published probe, with its learning rate, schedule, crops and normalisation; see
    docs/evaluation.md."""
    images: Literal["cached", "augmented"] = "cached"
    """cached: encode each image once; augmented: encode a new crop and flip in each epoch."""
    lr: tuple[float, ...] = ()
    """Initial learning rate, not scaled by the batch size; several values are a sweep (none: the
    preset's)."""
    epochs: int | None = None
    """Epochs of training."""
    batch_size: int | None = None
    """Images a step over all processes; also the images that each process encodes at a time."""
    optimizer: OptimizerName | None = None
    """Optimizer: SGD or Adam."""
    momentum: float | None = None
    """Momentum of SGD."""
    weight_decay: float | None = None
    """Weight decay (not decoupled)."""
    schedule: ScheduleName | None = None
    """Learning-rate schedule: cosine to 0, steps, or exponential to 1e-6."""
    milestones: tuple[int, ...] = ()
    """Epochs after which --schedule step multiplies the learning rate (none: the preset's, scaled
    to --epochs)."""
    factor: float | None = None
    """Factor of --schedule step."""
    crop_scale: tuple[float, ...] = ()
    """Least and largest share of the area that a crop of --images augmented covers."""
    views: Views | None = None
    """Colours of --images augmented: plain, or grayed and jittered as InsDis' training views."""
    std: tuple[float, ...] = ()
    """Standard deviation of R, G and B to divide images by (none: the preset's, else
    pre-training's)."""
    seed: int = 0
    """Seed of the layer's initial weights, the image order and the crops."""

    def __post_init__(self) -> None:
        super().__post_init__()
        plan, lrs = self.plan()
        if min(plan.epochs, plan.batch_size) < 1 or not min(lrs) > 0:
            raise ValueError("--epochs, --batch-size and --lr must be above 0")
        if list(self.milestones) != sorted(set(self.milestones)) or 0 in self.milestones:
            raise ValueError("--milestones must be ascending epochs, from 1 on")
        if plan.schedule == "step" and not plan.milestones:
            raise ValueError("--schedule step needs --milestones EPOCH ...")
        if (self.milestones or self.factor is not None) and plan.schedule != "step":
            raise ValueError("--milestones and --factor go with --schedule step")
        if self.momentum is not None and plan.optimizer != "sgd":
            raise ValueError("--momentum goes with --optimizer sgd")
        scale = self.crop_scale
        if scale and (len(scale) != 2 or not 0 < scale[0] <= scale[1] <= 1):
            raise ValueError("--crop-scale takes the least and the most, above 0 and at most 1")
        if self.std and not min(self.std) > 0:
            raise ValueError("--std takes the deviation of each channel, above 0")

    def shown(self) -> Preset:
        """Return the preset with the flags' crops, colours and normalisation."""
        given = {name: getattr(self, name) for name in ("crop_scale", "views", "std")}
        given = {name: value for name, value in given.items() if value not in (None, ())}
        return dataclasses.replace(PRESETS[self.preset], **given)

    def plan(self) -> tuple[HeadPlan, tuple[float, ...]]:
        """Return the training plan and the initial learning rates of the preset and the flags."""
        preset = PRESETS[self.preset]
        lr, plan = preset.lr, preset.plan
        names = [f.name for f in dataclasses.fields(HeadPlan) if hasattr(self, f.name)]
        given = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in given.items() if value not in (None, ())}
        epochs = given.get("epochs", plan.epochs)
        drops = tuple(max(round(m * epochs / plan.epochs), 1) for m in plan.milestones)
        given = {"milestones": drops} | given
        return dataclasses.replace(plan, **given), tuple(dict.fromkeys(self.lr)) or (lr,)

    def evaluate(self, command: str) -> None:
        """Encode the images, train the layers, score them."""
        from tools.scoring.probe import linear_scores

        plan, lrs = self.plan()
        with self.open() as whole:
            evaluated = self._normalized(whole.labeled())
            evaluated.note_overlap()
            y = evaluated.labels(evaluated.val)
            method = evaluated.method()
            if self.images == "cached":
                every = self._cached(evaluated, method, y)
            else:
                heads = self._augmented(evaluated, method)
                x = evaluated.features(method, method.features, evaluated.val, plan.batch_size)
                every = linear_scores(heads, lrs, x, y)
            results = [(self.protocol(lr), every[lr]) for lr in lrs if lr in every]
            for protocol, numbers in results:
                evaluated.append(self.takes_score, protocol | numbers, command)
            self._print(evaluated, results, lrs)

    def _normalized(self, evaluated: EvaluatedRun) -> EvaluatedRun:
        """Return a copy whose images are divided by the probe's standard deviation, if any."""
        std = self.shown().std
        if not std or std == evaluated.facts.std:
            return evaluated
        if len(std) != len(evaluated.facts.std):
            named = "--std" if self.std else f"--preset {self.preset}"
            raise ValueError(
                f"{named} divides {len(std)} channels, and the run's images have "
                f"{len(evaluated.facts.std)}: give --std a value for each channel"
            )
        own = " ".join(f"{value:g}" for value in evaluated.facts.std)
        probe = " ".join(f"{value:g}" for value in std)
        evaluated.print(f"images are divided by --std {probe}, in pre-training by {own}")
        return dataclasses.replace(evaluated, facts=dataclasses.replace(evaluated.facts, std=std))

    def _cached(
        self, evaluated: EvaluatedRun, method: Method, y: Tensor
    ) -> dict[float, dict[str, float]]:
        from tools.scoring.probe import linear_sweep

        plan, lrs = self.plan()
        x_train, x = (
            evaluated.features(method, method.features, table, max(plan.batch_size, 256))
            for table in (evaluated.train, evaluated.val)
        )
        y_train = evaluated.labels(evaluated.train)
        return linear_sweep(x_train, y_train, x, y, lrs=lrs, plan=plan, seed=self.seed)

    def _augmented(self, evaluated: EvaluatedRun, method: Method) -> Heads:
        """Train on random crops; every process holds the same layers and gathers all features."""
        import torch

        from models.distributed import gather
        from tools.evaluation.feed import batch_that_fits, feed
        from tools.scoring import accuracy
        from tools.scoring.features import evaluating
        from tools.scoring.probe import Heads

        plan, lrs = self.plan()
        accelerator = evaluated.accelerator
        rows = len(evaluated.train)
        size = batch_that_fits(plan.batch_size, rows, accelerator.num_processes)
        shown = self.shown()
        colors = shown.views == "insdis"
        loader = feed(evaluated, evaluated.train, size, self.seed, shown.crop_scale, colors)
        steps = loader.maker.sampler.steps_per_epoch
        num_classes = accuracy.num_classes(*map(evaluated.labels, (evaluated.train, evaluated.val)))
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
                evaluated.progress(batch.step + 1, plan.epochs * steps)
        assert heads is not None
        return heads

    def protocol(self, lr: float) -> dict[str, Any]:
        """Return the settings that the score of one learning rate depends on."""
        plan, _ = self.plan()
        numbers = dataclasses.asdict(plan)
        if plan.schedule != "step":
            del numbers["milestones"], numbers["factor"]
        if plan.schedule != "exponential":
            del numbers["final_lr"]
        if plan.optimizer != "sgd":
            del numbers["momentum"]
        numbers |= {"lr": lr, "images": self.images, "probe_seed": self.seed}
        shown = self.shown()
        if shown.std:
            numbers["std"] = list(shown.std)
        if self.images == "augmented":
            numbers["crop_scale"] = list(shown.crop_scale)
            if shown.views != "plain":  # absent from the lines of earlier versions
                numbers["views"] = shown.views
        return {"protocol": "linear", "features": "backbone"} | numbers

    def _print(
        self,
        evaluated: EvaluatedRun,
        results: list[tuple[dict[str, Any], dict[str, float]]],
        lrs: tuple[float, ...],
    ) -> None:
        from tools.evaluation.sweep import show

        plan, _ = self.plan()
        how = f"{plan.epochs} epochs, {self.images} images, {evaluated.description}"
        if len(lrs) == 1:
            numbers = results[0][1]
            top1, top5 = percent(numbers["linear_top1"]), percent(numbers["linear_top5"])
            sure = f"mean confidence {percent(numbers['linear_confidence'])}"
            evaluated.print(f"linear top-1 {top1}, top-5 {top5}, {sure} (lr {lrs[0]:g}, {how})")
            return
        evaluated.print(show(results, ("lr",), f"linear, {how}"))
        diverged = [f"{lr:g}" for lr in lrs if lr not in [p["lr"] for p, _ in results]]
        if diverged:
            evaluated.print(f"diverged, so without a score: lr {' '.join(diverged)}")
