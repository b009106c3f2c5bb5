"""``eval.py semi``: fine-tuning on few labels."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.evaluation.base import RunProtocol
from tools.evaluation.results import percent

if TYPE_CHECKING:
    from pipelines.sources.table import Table
    from tools.evaluation.evaluated_run import EvaluatedRun
    from tools.evaluation.tuning import Tuning

PUBLISHED_BATCH = 256
"""Batch size of the published learning rates."""
ONE_PERCENT, TEN_PERCENT = (0.02, 5.0), (0.01, 0.2)
"""Learning rates of backbone and layer. Caron 2020, arXiv:2006.09882."""
FEW = 0.03
"""Largest share of labels that uses the rates for 1 %; above it those for 10 % are used."""


@dataclass(frozen=True, kw_only=True)
class Semi(RunProtocol):
    """Fine-tune all weights on a few labels (SwAV's settings); score on all validation images.

    The labelled images are a share of each class, at least one image, which depends only on the
    fraction and the seed; or those of a list file, as SimCLR's 1percent.txt.
    """

    fraction: float | None = None
    """Share of each class's labels, 0.01 (default) or 0.1 in the papers."""
    list: Path | None = None
    """File that names the images instead, one a line."""
    epochs: int = 20
    """Epochs on the labelled images; the rates are multiplied by 0.2 after 60 % and 80 %."""
    lr: float | None = None
    """Learning rate of the backbone (default: for 1 % 0.02, for 10 % 0.01, per 256 images)."""
    head_lr: float | None = None
    """Learning rate of the layer (default: for 1 % 5, for 10 % 0.2, per 256 images)."""
    weight_decay: float = 0.0
    """Weight decay of SGD."""
    batch_size: int = PUBLISHED_BATCH
    """Images a step over all processes; fewer if fewer images are labelled."""
    seed: int = 0
    """Seed of the choice of labels, the layer's initial weights, the image order and the crops."""

    def __post_init__(self) -> None:
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"--fraction {self.fraction} must be above 0 and at most 1")
        if self.fraction is not None and self.list is not None:
            raise ValueError("--fraction and --list exclude each other: the list says which labels")
        if min(self.epochs, self.batch_size) < 1:
            raise ValueError("--epochs and --batch-size must be at least 1")
        if not (self.lr is None or self.lr >= 0) or not (self.head_lr is None or self.head_lr > 0):
            raise ValueError("--head-lr must be above 0, --lr 0 or above")

    @property
    def _share(self) -> float:
        return 0.01 if self.fraction is None else self.fraction

    def evaluate(self, command: str) -> None:
        """Choose the labels, train on them, score."""
        from tools.evaluation.feed import batch_that_fits
        from tools.evaluation.tuning import score, tune

        with self.open_run() as whole:
            every = int((whole.train.label >= 0).sum())
            evaluated = self.of_few(whole)
            evaluated.note_overlap()
            count = len(evaluated.train)
            world = evaluated.accelerator.num_processes
            tuning = self.tuning(count / every, batch_that_fits(self.batch_size, count, world))
            evaluated.print(f"{count:,} of {every:,} labels, batches of {tuning.batch_size}")
            classifier = tune(evaluated, evaluated.method(), tuning)
            numbers = {
                f"semi_{name}": value for name, value in score(evaluated, classifier).items()
            }
            evaluated.append(self.folder, self.protocol(tuning) | numbers, command)
            evaluated.print(
                f"semi top-1 {percent(numbers['semi_top1'])}, top-5 {percent(numbers['semi_top5'])}"
                f" ({count:,} labels, {percent(count / every)} of them; {self.epochs} epochs, "
                f"lr {tuning.lr:g} and {tuning.head_lr:g}, {evaluated.description})"
            )

    def of_few(self, whole: EvaluatedRun) -> EvaluatedRun:
        """Return a copy with only the images whose labels are used, if they allow a score.

        Raises:
            ValueError: the images allow no score, or the list does not match the data.
        """
        few = dataclasses.replace(whole, train=self.chosen(whole.train))
        try:
            return few.labeled()
        except ValueError as error:
            if self.list is None:
                raise
            raise ValueError(f"--list {self.list}: of the images it names, {error}") from error

    def chosen(self, table: Table) -> Table:
        """Return the images whose labels are used.

        Raises:
            ValueError: the list does not match the data.
        """
        from tools.evaluation.feed import listed, stratified

        if self.list is not None:
            return table.take(listed(table, self.list))
        return table.take(stratified(table.label, self._share, self.seed))

    def tuning(self, share: float, batch_size: int) -> Tuning:
        """Return the training settings for a share of the labels and the actual batch size."""
        from tools.evaluation.tuning import Tuning

        lr, head_lr = ONE_PERCENT if share <= FEW else TEN_PERCENT
        scale = batch_size / PUBLISHED_BATCH
        return Tuning(
            epochs=self.epochs,
            batch_size=batch_size,
            lr=lr * scale if self.lr is None else self.lr,
            head_lr=head_lr * scale if self.head_lr is None else self.head_lr,
            weight_decay=self.weight_decay,
            schedule="step",
            milestones=(0.6 * self.epochs, 0.8 * self.epochs),
            seed=self.seed,
        )

    def protocol(self, tuning: Tuning) -> dict[str, Any]:
        """Return the settings that the score depends on."""
        numbers = dataclasses.asdict(tuning)
        numbers["probe_seed"] = numbers.pop("seed")
        labels = {"list": str(self.list)} if self.list else {"fraction": self._share}
        return {"protocol": "semi"} | labels | numbers
