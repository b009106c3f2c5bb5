"""``eval.py finetune``: fine-tune all weights on any labelled images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from models.settings.base import Schedule
from pipelines.system.atomic import replacing
from tools.evaluation.base import RunProtocol
from tools.evaluation.results import percent

if TYPE_CHECKING:
    from models.methods import Method
    from tools.evaluation.evaluated_run import EvaluatedRun
    from tools.evaluation.tuning import Classifier, Tuning


@dataclass(frozen=True, kw_only=True)
class Finetune(RunProtocol):
    """Train the backbone and a linear layer on labelled images, and score on others.

    --weights random trains the same network from scratch, for comparison.
    """

    weights: Literal["run", "random"] = "run"
    """Initial weights: the run's, or those of an untrained network."""
    epochs: int = 30
    """Epochs of fine-tuning."""
    lr: float = 0.01
    """Peak learning rate of the backbone, not scaled by the batch size (0: freeze the backbone)."""
    head_lr: float = 0.1
    """Peak learning rate of the linear layer."""
    optimizer: str = "momentum"
    """Any timm optimiser: adamw, lamb, ...; SGD without Nesterov is 'momentum'."""
    momentum: float = 0.9
    """Momentum, for optimisers that have one."""
    weight_decay: float = 1e-4
    """Weight decay."""
    schedule: Schedule = "cosine"
    """Schedule of the learning rates after the warm-up: cosine to 0, step, or constant."""
    milestones: tuple[int, ...] = ()
    """Epochs after which --schedule step multiplies the learning rates by --factor."""
    factor: float = 0.1
    """Factor of --schedule step."""
    warmup_epochs: float = 0.0
    """Epochs over which the learning rates rise from 0."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Least and largest share of the area that a training crop covers."""
    batch_size: int = 256
    """Images a step over all processes; fewer if the data set is smaller."""
    seed: int = 0
    """Seed of the layer's initial weights, the image order, the crops, and --weights random."""
    save: Path | None = None
    """File for the fine-tuned weights (default: not saved)."""

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or self.warmup_epochs < 0:
            raise ValueError("--epochs and --batch-size must be at least 1, --warmup-epochs 0")
        if not self.lr >= 0 or not self.head_lr > 0:
            raise ValueError("--head-lr must be above 0, --lr 0 or above")
        if bool(self.milestones) != (self.schedule == "step"):
            raise ValueError("--milestones EPOCH ... and --schedule step go together")
        if self.factor != Finetune.factor and self.schedule != "step":
            raise ValueError("--factor is that of --schedule step")
        import timm.optim  # seconds that the other protocols and --help need not spend

        if self.optimizer not in timm.optim.list_optimizers():
            raise ValueError(f"--optimizer {self.optimizer}: timm has no such optimiser")
        has_momentum = timm.optim.get_optimizer_info(self.optimizer).has_momentum
        if self.momentum != Finetune.momentum and not has_momentum:
            raise ValueError(f"--momentum: {self.optimizer} has none")
        if self.encoder and self.weights == "random":
            raise ValueError(
                "--encoder chooses among the run's encoders: --weights random has none"
            )
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError("--crop-scale takes the least and the most, above 0 and at most 1")

    def evaluate(self, command: str) -> None:
        """Train and score."""
        from tools.evaluation.feed import batch_that_fits
        from tools.evaluation.tuning import score, tune

        with self.open_run() as whole:
            evaluated = whole.labeled()
            evaluated.note_overlap()
            count, world = len(evaluated.train), evaluated.accelerator.num_processes
            tuning = self.tuning(batch_that_fits(self.batch_size, count, world))
            classifier = tune(evaluated, self.method(evaluated), tuning)
            found = score(evaluated, classifier)
            numbers = {f"finetune_{name}": value for name, value in found.items()}
            evaluated.append(self.folder, self.protocol(tuning) | numbers, command)
            top1, top5 = (percent(numbers[f"finetune_{name}"]) for name in ("top1", "top5"))
            begin = "from scratch"
            if self.weights == "run":
                begin = f"from {evaluated.description}"
            evaluated.print(
                f"fine-tuned {begin}: top-1 {top1}, top-5 {top5} ({count:,} images, "
                f"{self.epochs} epochs, lr {tuning.lr:g} and {tuning.head_lr:g})"
            )
            self._save(evaluated, classifier)

    def method(self, evaluated: EvaluatedRun) -> Method:
        """Return the network to fine-tune."""
        if self.weights == "run":
            return evaluated.method()
        from tools.engine import build

        config = dataclasses.replace(evaluated.config, seed=self.seed)
        images = evaluated.state["data"]["images"]
        method = build.create_method(config, 1, evaluated.facts, images)
        return evaluated.placed(method)

    def tuning(self, batch_size: int) -> Tuning:
        """Return the training settings for the actual batch size."""
        from tools.evaluation.tuning import Tuning

        names = {f.name for f in dataclasses.fields(Tuning)} - {"batch_size"}
        return Tuning(batch_size=batch_size, **{name: getattr(self, name) for name in names})

    def protocol(self, tuning: Tuning) -> dict[str, Any]:
        """Return the settings that the score depends on."""
        numbers = dataclasses.asdict(tuning)
        numbers["probe_seed"] = numbers.pop("seed")
        return {"protocol": "finetune", "weights": self.weights} | numbers

    def _save(self, evaluated: EvaluatedRun, classifier: Classifier) -> None:
        if self.save is None or not evaluated.accelerator.is_main_process:
            return
        import torch

        weights = {"weights": classifier.state_dict(), "classes": list(evaluated.train.classes)}
        self.save.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.save) as aside:
            torch.save(weights, aside)
        print(self.save)
