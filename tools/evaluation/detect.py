"""``eval.py detect``: transfer to object detection, with all weights fine-tuned."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional, arg

from models.settings.base import Which
from tools.evaluation.base import Protocol
from tools.evaluation.results import append, percent, stamp
from tools.runs.locate import find_run

if TYPE_CHECKING:  # torchvision's detection parts are imported when they are needed
    from tools.evaluation.detection.backbone import Backbone
    from tools.evaluation.detection.dataset import DetectionDataset
    from tools.evaluation.detection.schedule import DetectionSchedule


@dataclass(frozen=True, kw_only=True)
class Detect(Protocol):
    """Faster R-CNN on a ResNet, fine-tuned and scored by mean average precision. He 2020."""

    run: Annotated[Path | None, Positional, arg(metavar="RUN")] = None
    """Run whose weights are used and whose folder takes the results: runs/NAME, or NAME below
    ./runs."""
    weights: str | None = None
    """Weights to start from: random, supervised (timm's, downloaded) or runs/NAME."""
    checkpoint: Path | None = None
    """Checkpoint of the run to start from (default: its last)."""
    encoder: Which | None = None
    """Encoder to start from: the trained one or its momentum (EMA) copy (default: the paper's)."""
    backbone: str = "resnet50"
    """A timm ResNet, for random or supervised weights without --run."""
    output: Path | None = None
    """Folder for the results (default: the run's folder; required without a run)."""
    detector: Literal["c4", "fpn"] = "c4"
    """c4: regions of res4 go through res5 (as published); fpn: a pyramid of all four stages."""
    dataset: Literal["demo", "voc", "coco"] = "demo"
    """Data set; demo pastes patches on photographs and needs no download."""
    data_dir: Path = Path("data")
    """Folder that holds VOC2007 and VOC2012 (or VOCdevkit), or COCO's annotations and images."""
    train_split: tuple[str, ...] = ()
    """Lists to train on (VOC: 2007/trainval 2012/trainval; COCO: train2017)."""
    val_split: tuple[str, ...] = ()
    """Lists to score (VOC: 2007/test; COCO: val2017)."""
    steps: int | None = None
    """Training steps, to which the schedule is stretched (VOC 24000, COCO 180000, demo 120)."""
    batch_size: int | None = None
    """Images a step over all processes (VOC and COCO 16, demo 4)."""
    lr: float | None = None
    """Peak learning rate (0.02 for 16 images and in proportion; demo 0.01 for 4)."""
    short_sides: tuple[int, ...] = ()
    """Pixels of the shorter side: training draws one, testing uses the last (VOC 480..800)."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision (default: the launcher's)."""
    workers: int | None = None
    """Reading threads of each process (default: its share of the cores)."""
    seed: int = 0
    """Seed of the detector's initial weights, the order of images and the sampled regions."""

    def __post_init__(self) -> None:
        if self.run is None and self.weights is None:
            raise ValueError(
                "name a run (RUN or --run RUN), or --weights random, supervised or runs/NAME"
            )
        if self.weights not in (None, "random", "supervised") and self.run is not None:
            raise ValueError("--weights runs/NAME names a run: leave out RUN")
        if self.encoder and self.weights in ("random", "supervised"):
            raise ValueError(
                f"--encoder chooses among a run's encoders: --weights {self.weights} has none"
            )
        if self.output is None and self.source is None:
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
    def source(self) -> Path | None:
        """The run that RUN or --weights names."""
        named = self.weights not in (None, "random", "supervised")
        return Path(str(self.weights)) if named else self.run

    def evaluate(self, command: str) -> None:
        """Build the detector, train it, detect the objects, and record the precision."""
        import torch

        from tools.distributed.launch import cores_per_process, start
        from tools.evaluation.detection import scoring
        from tools.evaluation.detection.backbone import open_backbone
        from tools.evaluation.detection.detector import build_detector
        from tools.evaluation.detection.picture import draw_detections
        from tools.evaluation.detection.training import train

        scoring.check_scorer()
        schedule = self.schedule()
        train_set, val_set = self.datasets()
        run = find_run(self.source) if self.source else None
        backbone = open_backbone(
            run, self.weights, self.checkpoint, self.backbone, self.seed, self.encoder
        )
        accelerator = start(self.precision)
        torch.manual_seed(self.seed)  # the heads start from the same weights on every backbone
        model = build_detector(
            backbone.model,
            self.detector,
            len(train_set.classes),
            schedule.sizes,
            backbone.mean,
            backbone.std,
        ).to(accelerator.device)
        print_fn = partial(accelerator.print, flush=True)
        if backbone.has_small_stem:
            print_fn(
                "the small stem keeps the resolution, which is slow: try smaller --short-sides"
            )
        loss = train(
            *(model, train_set, schedule, accelerator),
            seed=self.seed,
            workers=self.workers or cores_per_process(),
            print_fn=print_fn,
        )
        found = scoring.detect(model, val_set, accelerator)
        if accelerator.is_main_process:
            scores = scoring.average_precision(found, val_set.annotations)
            sizes = {"train_images": len(train_set), "val_images": len(val_set)}
            line = self.protocol(schedule, backbone) | scores | {"loss": loss} | sizes
            line |= {"world_size": accelerator.num_processes} | stamp(command)
            folder = self.output or run
            assert folder is not None
            folder.mkdir(parents=True, exist_ok=True)
            append(folder, line, accelerator)
            summary = self.summary(scores, schedule, backbone)
            picture = folder / self.picture_name(backbone)
            draw_detections(val_set, found, summary, picture)
            print(f"{summary}\n{picture}")

    @property
    def scored_runs(self) -> list[Path]:
        """The run's folder, if it takes the result."""
        return [find_run(self.source)] if self.source and self.output is None else []

    def schedule(self) -> DetectionSchedule:
        """Return the data set's schedule with the flags' changes.

        By default the learning rate is proportional to the batch size.
        """
        from tools.evaluation.detection.schedule import SCHEDULES

        schedule = SCHEDULES[self.dataset]
        batch = self.batch_size or schedule.batch_size
        sides = self.short_sides or schedule.sizes.short_sides
        return dataclasses.replace(
            schedule,
            steps=schedule.steps if self.steps is None else self.steps,
            batch_size=batch,
            lr=self.lr or schedule.lr * batch / schedule.batch_size,
            sizes=dataclasses.replace(schedule.sizes, short_sides=sides),
        )

    def datasets(self) -> tuple[DetectionDataset, DetectionDataset]:
        """Open both splits; a label means the same class in both."""
        from tools.evaluation.detection import coco, demo, voc

        if self.dataset == "demo":
            return demo.demo("train"), demo.demo("val")
        module, read = (voc, voc.voc) if self.dataset == "voc" else (coco, coco.coco)
        train_set = read(self.data_dir, self.train_split or module.TRAIN)
        return train_set, read(self.data_dir, self.val_split or module.VAL, train_set.classes)

    def protocol(self, schedule: DetectionSchedule, backbone: Backbone) -> dict[str, Any]:
        """Return the settings that the score depends on."""
        return {
            "protocol": "detect",
            "weights": backbone.origin if backbone.step is None else "run",
            "origin": backbone.origin,
            "backbone": backbone.name,
            "step": backbone.step,
            **({"encoder": backbone.encoder} if backbone.encoder else {}),
            "detector": self.detector,
            "dataset": self.dataset,
            "splits": [*self.train_split, *self.val_split],
            "steps": schedule.steps,
            "batch_size": schedule.batch_size,
            "lr": schedule.lr,
            "short_sides": schedule.sizes.short_sides,
            "detect_seed": self.seed,
        }

    def summary(
        self, numbers: dict[str, float], schedule: DetectionSchedule, backbone: Backbone
    ) -> str:
        """Return the result in one line."""
        scores = ", ".join(f"{name.upper()} {percent(value)}" for name, value in numbers.items())
        return (
            f"{scores} ({self.detector} on {self.dataset}, {schedule.steps:,} steps of "
            f"{schedule.batch_size}, from {backbone.description})"
        )

    def picture_name(self, backbone: Backbone) -> str:
        """Return the picture's file name: data set, detector and weights."""
        return f"detect-{self.dataset}-{self.detector}-{Path(backbone.origin).name}.png"
