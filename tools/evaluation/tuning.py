"""Train a backbone and a linear layer on labels, for ``semi`` and ``finetune``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from models.methods import Method
from models.modules.backbone import num_features
from models.modules.batchnorm import BatchNorm
from models.optim import LrScale, create_optimizer, learning_rate
from models.settings.base import Schedule
from tools.evaluation.evaluated_run import EvaluatedRun
from tools.evaluation.feed import batch_that_fits, feed
from tools.scoring import accuracy
from tools.scoring.features import extract


@dataclass(frozen=True)
class Tuning:
    """Training settings; learning rates are not scaled by the batch size."""

    epochs: int
    batch_size: int
    lr: float
    """Learning rate of the backbone; 0 freezes it."""
    head_lr: float
    optimizer: str = "momentum"
    """timm's name of the optimizer."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Schedule = "cosine"
    milestones: Sequence[float] = ()
    """Epochs at which the step schedule multiplies the rates by ``factor``."""
    factor: float = 0.2
    warmup_epochs: float = 0.0
    crop_scale: tuple[float, float] = (0.08, 1.0)
    seed: int = 0


class Classifier(nn.Module):
    """A run's scored encoder and a linear layer, whose weights start as N(0, 0.01), biases at 0."""

    def __init__(self, method: Method, num_classes: int, seed: int) -> None:
        super().__init__()
        self.backbone = method.scored_encoder
        self.head = nn.Linear(num_features(self.backbone), num_classes)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(self.head.weight, std=0.01, generator=generator)
        nn.init.zeros_(self.head.bias)
        for module in self.backbone.modules():
            if isinstance(module, BatchNorm):
                module.mode = "sync"  # statistics of the whole batch, on any number of processes

    def forward(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n classes"]:
        """Return class scores."""
        return self.head(self.backbone(images))


def tune(evaluated: EvaluatedRun, method: Method, tuning: Tuning) -> Classifier:
    """Train on ``evaluated.train``, whose images all have labels; return the classifier.

    Batch norm is in training mode unless the backbone is frozen. Rows, crops and weights depend on
    the seed, not on the number of processes.

    Raises:
        ValueError: the batch cannot be split among the processes, or the loss is not finite.
    """
    accelerator = evaluated.accelerator
    num_classes = accuracy.num_classes(*map(evaluated.labels, (evaluated.train, evaluated.val)))
    classifier = Classifier(method, num_classes, tuning.seed).to(accelerator.device)
    classifier.backbone.requires_grad_(tuning.lr > 0)
    share = tuning.lr / tuning.head_lr
    sgd = create_optimizer(
        classifier,
        tuning.optimizer,
        tuning.head_lr,
        tuning.weight_decay,
        tuning.momentum,
        lr_scale=lambda name, _: LrScale(share if name.startswith("backbone.") else 1.0),
    )
    size = batch_that_fits(tuning.batch_size, len(evaluated.train), accelerator.num_processes)
    loader = feed(evaluated, evaluated.train, size, tuning.seed, tuning.crop_scale)
    per_epoch = loader.maker.sampler.steps_per_epoch
    total = tuning.epochs * per_epoch
    trained, optimizer = accelerator.prepare(classifier, sgd)
    trained.train()
    if tuning.lr == 0:
        classifier.backbone.eval()
    for batch in loader.batches(0, total):
        rate = lr_scale(tuning, batch.step, per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        loss = F.cross_entropy(trained(batch.views[0]).float(), batch.label)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _say(evaluated, batch.step + 1, total, loss.detach())
    return classifier


def lr_scale(tuning: Tuning, step: int, steps_per_epoch: int) -> float:
    """Return the linear layer's learning rate at a step, counted from 0.

    The backbone's rate keeps a constant ratio to it.

    A ``milestones`` entry is the number of finished epochs after which the rate drops.
    """
    return learning_rate(
        step,
        tuning.epochs * steps_per_epoch,
        tuning.head_lr,
        warmup_steps=round(tuning.warmup_epochs * steps_per_epoch),
        schedule=tuning.schedule,
        milestones=[round(epoch * steps_per_epoch) for epoch in tuning.milestones],
        gamma=tuning.factor,
    )


def _say(evaluated: EvaluatedRun, step: int, total: int, loss: Tensor) -> None:
    """Print about ten lines; all processes stop if the loss is not finite."""
    if step % -(-total // 10) and step != total:
        return
    mean = float(evaluated.accelerator.reduce(loss, "mean"))
    if not math.isfinite(mean):
        raise ValueError(f"the loss is {mean} at step {step}: lower --lr and --head-lr")
    evaluated.progress(step, total, f"  loss {mean:.3f}")


def score(evaluated: EvaluatedRun, classifier: Classifier) -> dict[str, float]:
    """Return ``top1`` and ``top5`` on the validation images, each counted once.

    Raises:
        ValueError: the class scores are not finite.
    """
    batches = evaluated.batches(evaluated.val, 256)
    logits = extract(classifier, classifier, batches, len(evaluated.val), evaluated.accelerator)
    if not logits.isfinite().all():
        raise ValueError("the trained network's scores are not finite: lower --lr and --head-lr")
    return accuracy.topk_accuracy(*accuracy.labeled(logits, evaluated.labels(evaluated.val)))
