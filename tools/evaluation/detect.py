"""``eval.py detect``: transfer to object detection, all weights trained on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from models.methods.base import Which
from tools.evaluation.base import Protocol
from tools.evaluation.results import append, percent, stamp

if TYPE_CHECKING:  # torchvision's detection parts are imported when they are needed
    from tools.evaluation.detection.examples import Examples
    from tools.evaluation.detection.plan import DetectionSchedule
    from tools.evaluation.detection.subject import Backbone


@dataclass(frozen=True, kw_only=True)
class Detect(Protocol):
    """Faster R-CNN on a ResNet, fine-tuned and scored by mean average precision. He 2020."""

    run: Path | None = None
    """Folder of a run: its weights (see --weights), and where the results go."""
    weights: str | None = None
    """Where the backbone starts: random, supervised (timm's, downloaded) or runs/NAME."""
    checkpoint: Path | None = None
    """Checkpoint of the run to start from (default: its last)."""
    encoder: Which | None = None
    """The one that learns, or its momentum (EMA) copy (default: the one that the paper scores)."""
    backbone: str = "resnet50"
    """A timm ResNet, for random or supervised weights without --run."""
    output: Path | None = None
    """Folder for the results (default: the run's; needed without one)."""
    detector: Literal["c4", "fpn"] = "c4"
    """C4: regions of res4 go through res5 (as published); FPN: a pyramid of all four stages."""
    dataset: Literal["demo", "voc", "coco"] = "demo"
    """What is detected; the demo pastes patches on photographs and needs no data."""
    data_dir: Path = Path("data")
    """Folder that holds VOC2007 and VOC2012 (or VOCdevkit), or COCO's annotations and pictures."""
    train_split: tuple[str, ...] = ()
    """Lists to train on (VOC: 2007/trainval 2012/trainval; COCO: train2017)."""
    val_split: tuple[str, ...] = ()
    """Lists to score (VOC: 2007/test; COCO: val2017)."""
    steps: int | None = None
    """Training steps; the schedule stretches with them (VOC 24000, COCO 180000, demo 120)."""
    batch_size: int | None = None
    """Pictures a step over all processes (VOC and COCO 16, demo 4)."""
    lr: float | None = None
    """Peak learning rate (0.02 for 16 pictures and in proportion; demo 0.01 for 4)."""
    short_sides: tuple[int, ...] = ()
    """Pixels of the shorter side: training draws one, the test takes the last (VOC 480..800)."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision (default: the launcher's)."""
    workers: int | None = None
    """Reading threads of each process (default: its share of the cores)."""
    seed: int = 0
    """Key of the detector's first weights, the order of pictures and what is sampled."""

    def __post_init__(self) -> None:
        if self.run is None and self.weights is None:
            raise ValueError("name --run runs/NAME, or --weights random, supervised or runs/NAME")
        if self.weights not in (None, "random", "supervised") and self.run is not None:
            raise ValueError("--weights runs/NAME and --run name the same thing; give one of them")
        if self.encoder and self.weights in ("random", "supervised"):
            raise ValueError(
                f"--encoder chooses among a run's encoders: --weights {self.weights} has none"
            )
        if self.folder is None:
            raise ValueError(f"--weights {self.weights} without --run needs --output FOLDER")
        counts = [n for n in (self.batch_size, self.workers) if n is not None]
        if (self.steps or 0) < 0 or any(n < 1 for n in counts):
            raise ValueError("--batch-size and --workers must be above 0, --steps 0 or above")
        if self.lr is not None and not self.lr > 0:
            raise ValueError("--lr must be above 0")
        if any(side < 32 for side in self.short_sides):
            raise ValueError("--short-sides must be 32 pixels or more")
        if self.dataset == "demo" and (self.train_split or self.val_split):
            raise ValueError("--dataset demo has its own splits: leave out --train-split")

    @property
    def folder(self) -> Path | None:
        """Where the results go."""
        named = self.weights not in (None, "random", "supervised")
        return self.output or self.run or (Path(str(self.weights)) if named else None)

    def evaluate(self, command: str) -> None:
        """Build the detector, train it, find the objects, and write down how well."""
        from tools.distributed.launch import cores_per_process, start
        from tools.evaluation.detection.models import build_detector
        from tools.evaluation.detection.picture import draw_found
        from tools.evaluation.detection.score import check_scorer, find, precision
        from tools.evaluation.detection.subject import open_backbone
        from tools.evaluation.detection.train import train

        check_scorer()
        plan = self.plan()
        train_set, val_set = self.examples()
        subject = open_backbone(
            self.run, self.weights, self.checkpoint, self.backbone, self.seed, self.encoder
        )
        accelerator = start(self.precision)
        torch.manual_seed(self.seed)  # whatever the backbone, the heads start alike
        model = build_detector(
            subject.model,
            self.detector,
            len(train_set.classes),
            plan.sizes,
            subject.mean,
            subject.std,
        ).to(accelerator.device)
        say = partial(print, flush=True) if accelerator.is_main_process else lambda _: None
        if subject.fine:
            say("the small stem keeps the resolution, which takes time: try smaller --short-sides")
        workers = self.workers or cores_per_process()
        loss = train(model, train_set, plan, accelerator, seed=self.seed, workers=workers, say=say)
        found = find(model, val_set, accelerator)
        if not accelerator.is_main_process:
            return
        numbers = precision(found, val_set.objects)
        folder = self.folder
        assert folder is not None
        folder.mkdir(parents=True, exist_ok=True)
        line = self.protocol(plan, subject) | numbers | {"loss": loss}
        sizes = {"train_images": len(train_set), "val_images": len(val_set)}
        line |= sizes | {"world_size": accelerator.num_processes} | stamp(command)
        append(folder, line, accelerator)
        told = self.told(numbers, plan, subject)
        picture = folder / self.picture_name(subject)
        draw_found(val_set, found, told, picture)
        print(f"{told}\n{picture}")

    def plan(self) -> DetectionSchedule:
        """Return the data set's schedule with what the flags change; the rate follows the batch."""
        from tools.evaluation.detection.plan import PLANS

        plan = PLANS[self.dataset]
        batch = self.batch_size or plan.batch_size
        return dataclasses.replace(
            plan,
            steps=plan.steps if self.steps is None else self.steps,
            batch_size=batch,
            lr=self.lr or plan.lr * batch / plan.batch_size,
            sizes=dataclasses.replace(
                plan.sizes, short_sides=self.short_sides or plan.sizes.short_sides
            ),
        )

    def examples(self) -> tuple[Examples, Examples]:
        """Open both splits; labels mean the same in both."""
        from tools.evaluation.detection import coco, demo, voc

        if self.dataset == "demo":
            return demo.demo("train"), demo.demo("val")
        module, read = (voc, voc.voc) if self.dataset == "voc" else (coco, coco.coco)
        train_set = read(self.data_dir, self.train_split or module.TRAIN)
        return train_set, read(self.data_dir, self.val_split or module.VAL, train_set.classes)

    def protocol(self, plan: DetectionSchedule, subject: Backbone) -> dict[str, Any]:
        """Return the numbers that the score depends on."""
        return {
            "protocol": "detect",
            "weights": subject.origin if subject.step is None else "run",
            "origin": subject.origin,
            "backbone": subject.name,
            "step": subject.step,
            **({"encoder": subject.encoder} if subject.encoder else {}),
            "detector": self.detector,
            "dataset": self.dataset,
            "splits": [*self.train_split, *self.val_split],
            "steps": plan.steps,
            "batch_size": plan.batch_size,
            "lr": plan.lr,
            "short_sides": plan.sizes.short_sides,
            "detect_seed": self.seed,
        }

    def told(self, numbers: dict[str, float], plan: DetectionSchedule, subject: Backbone) -> str:
        """Put the result into one line."""
        scores = ", ".join(f"{name.upper()} {percent(value)}" for name, value in numbers.items())
        return (
            f"{scores} ({self.detector} on {self.dataset}, {plan.steps:,} steps of "
            f"{plan.batch_size}, from {subject.told})"
        )

    def picture_name(self, subject: Backbone) -> str:
        """Name the picture after what was trained on what."""
        return f"detect-{self.dataset}-{self.detector}-{Path(subject.origin).name}.png"
