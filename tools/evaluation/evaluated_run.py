"""The network of a run's checkpoint, and the labelled images to score it on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from models.methods import Method
from models.settings.base import Which
from pipelines.data_facts import DataFacts
from pipelines.sources.contents import sample_key
from pipelines.sources.overlap import rows_in
from pipelines.sources.table import Table
from pipelines.system.progress import tracked
from tools.config.config import ResolvedConfig
from tools.engine import build
from tools.engine.restore import with_encoder
from tools.evaluation.results import append, stamp
from tools.runs.scores import chosen_rows
from tools.scoring import accuracy
from tools.scoring.features import extract


@dataclass(frozen=True)
class EvaluatedRun:
    """The network of a run's checkpoint, and the labelled images to score it on."""

    config: ResolvedConfig
    """The run's settings, with the data that the evaluation uses."""
    state: Mapping[str, Any]
    """The checkpoint."""
    facts: DataFacts
    """Image size, mean and standard deviation of the run's training data."""
    train: Table
    val: Table
    decoders: build.Decoders
    accelerator: Accelerator
    restored: Method
    """The run's method with the checkpoint's weights, and the encoder that is scored."""
    origin: str | None = None
    """Published weights that are scored instead of a run's, in words."""

    def method(self) -> Method:
        """Return the run's method with the checkpoint's weights, on the device."""
        return self.placed(self.restored)

    def placed(self, method: Method) -> Method:
        """Move a method to the device, in the run's memory format."""
        if self.config.channels_last:
            method.to(memory_format=torch.channels_last)
        return method.to(self.accelerator.device)

    def features(
        self,
        method: Method,
        encode: Callable[[Tensor], Tensor],
        table: Table,
        batch_size: int,
        *,
        half: bool = False,
    ) -> Tensor:
        """Encode a table's evaluation views, (rows, d), in row order; each image counts once.

        They are in float32; with ``half``, in half precision on a GPU whose network computes in it.
        The main process shows how many images are encoded.
        """
        batches = self.batches(table, batch_size)
        if self.accelerator.is_main_process:
            processes = self.accelerator.num_processes  # each encodes an equal share
            total = len(table)
            batches = tracked(
                batches, total, "encoding images", lambda batch: len(batch[1]) * processes
            )
        return extract(method, encode, batches, len(table), self.accelerator, half=half)

    def damaged(self, table: Table) -> NDArray[np.int64]:
        """Return the rows whose features are another image's (--on-bad-image replace), ascending.

        All processes call it, after the images were encoded.
        """
        rows: list[int] = gather_object(sorted(self.decoders.of(table).bad_rows))
        return np.unique(np.array(rows, np.int64))

    def own_rows(self) -> Tensor | None:
        """Return each validation image's row among the training images, -1 if it is not there.

        None if there is no such image. Images are compared by file and row, not by pixels.
        """
        own = rows_in(self.val, self.train)
        if not (own >= 0).any():
            return None
        return torch.from_numpy(own).to(self.accelerator.device)

    def note_overlap(self) -> None:
        """Print that images to score are among those whose labels are learned, if they are."""
        own = self.own_rows()
        if own is not None:
            self.print(
                f"note: {int((own >= 0).sum()):,} of the {len(own):,} images to score are among "
                "those to learn from, so the score is no test: --val-data names others"
            )

    def batches(self, table: Table, batch_size: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield this process's share of a table's evaluation views, with their rows."""
        return build.evaluation_batches_of(
            self.config, table, self.facts, self.decoders, self.accelerator, batch_size
        )

    def labels(self, table: Table) -> Tensor:
        """Return a table's labels on the device, (rows,)."""
        return torch.from_numpy(table.label).to(self.accelerator.device)

    def labeled(self) -> EvaluatedRun:
        """Return a copy with the labelled images only, if they allow a score.

        Raises:
            ValueError: one set has no labels, or ``check_classes`` refuses the classes.
        """
        accuracy.check_labels(*(torch.from_numpy(t.label) for t in (self.train, self.val)))
        train, val = labeled_rows(self.train), labeled_rows(self.val)
        chosen = dataclasses.replace(self, train=train, val=val)
        chosen.check_classes()
        return chosen

    def check_classes(self) -> None:
        """Compare the classes of the two sets; print which ones the score does not cover.

        Raises:
            ValueError: an image to score belongs to a class without training images.
        """
        known, scored = (np.unique(t.label[t.label >= 0]).tolist() for t in (self.train, self.val))
        unseen = [self.class_name(c) for c in scored if c not in known]
        if unseen:
            raise ValueError(
                f"--val-data {self.config.val_data or self.config.data} has images of "
                f"{_some(unseen)}, and --data {self.config.data} has none to learn from"
            )
        missing = [self.class_name(c) for c in known if c not in scored]
        if missing:
            self.print(
                f"note: --val-data has no image of {_some(missing)}: the score is without them"
            )

    def class_name(self, label: int) -> str:
        """Return a class's name, or its number if the classes have no names."""
        name = self.train.class_name(label)
        return repr(name) if label < len(self.train.classes) else name

    @property
    def description(self) -> str:
        """Return the checkpoint's step in words, with the encoder if the method has two."""
        if self.origin is not None:
            return self.origin
        return with_encoder(f"step {self.state['step']}", self.restored.named_encoder)

    def print(self, text: str) -> None:
        """Print in the main process."""
        if self.accelerator.is_main_process:
            print(text, flush=True)

    def progress(self, step: int, total: int, text: str = "") -> None:
        """Print about ten lines over ``total`` steps."""
        every = -(-total // 10)
        if step % every == 0 or step == total:
            self.print(f"step {step:,}/{total:,}{text}")

    def append(self, folder: Path | None, numbers: Mapping[str, Any], command: str) -> None:
        """Append a protocol's numbers and the common ``record`` to the folder's eval.jsonl.

        If both have a key, the protocol's value is kept. Without a folder nothing is written.
        """
        if folder is not None:
            append(folder, {**numbers, **self.record(command), **numbers}, self.accelerator)

    def record(self, command: str) -> dict[str, Any]:
        """Return the entries that every line of eval.jsonl has in addition to the protocol's."""
        return {
            "step": self.state["step"],
            "seed": self.config.seed,
            "data": self.config.data,
            "val_data": self.config.val_data,
            "train_images": len(self.train),
            "val_images": len(self.val),
            "contents": self.contents,
            "loader": self.loader,
            "precision": self.accelerator.mixed_precision,
            "world_size": self.accelerator.num_processes,
            **({"classes": str(self.config.classes)} if self.config.classes else {}),
            **({"backbone": self.origin} if self.origin else {}),
            **encoder_line(self.restored),
            **chosen_rows(self.config),
        } | stamp(command)

    @cached_property
    def contents(self) -> str:
        """Digests of some training images and of some images to score; they are read once."""
        return f"{sample_key(self.train)} {sample_key(self.val)}"

    @property
    def loader(self) -> str:
        """The decoder of the images to score."""
        return build.choose(self.config, self.val, self.accelerator.device)[0]


def describe_damaged(names: Iterable[str], *, left_out: bool = False) -> list[str]:
    """Return a line that names damaged images, replaced by others or left out; none without any.

    >>> describe_damaged(["cut.jpg"], left_out=True)
    ['1 damaged image was left out: cut.jpg']
    """
    each = sorted(set(names))
    if not each:
        return []
    images, were = ("image", "was") if len(each) == 1 else ("images", "were")
    done = "left out" if left_out else f"replaced by {'another' if len(each) == 1 else 'others'}"
    return [f"{len(each):,} damaged {images} {were} {done}: {_some(each)}"]


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def labeled_rows(table: Table) -> Table:
    """Return the rows that have a label; the table itself when all have one."""
    rows = np.flatnonzero(table.label >= 0)
    return table if len(rows) == len(table) else table.take(rows)


def encoder_line(method: Method) -> dict[str, Which]:
    """Return the encoder's entry in eval.jsonl: empty where there is only one encoder."""
    return {"encoder": method.named_encoder} if method.named_encoder else {}
