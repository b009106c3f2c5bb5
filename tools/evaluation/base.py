"""What protocols share: the run's network, its labelled images, and the line in eval.jsonl."""

from __future__ import annotations

import dataclasses
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor

from models.methods import Method
from models.methods.base import Which
from models.modules.backbone import num_features
from pipelines.datasets import DataFacts, data_facts
from pipelines.sources.table import Table
from tools.config.config import ResolvedConfig
from tools.distributed.launch import start
from tools.engine import build
from tools.scoring import scores
from tools.scoring.features import extract


class Protocol:
    """A way to score a representation: a frozen dataclass, and a subcommand of ``eval.py``."""

    def evaluate(self, command: str) -> None:
        """Score, ``append`` lines and print the result, in the first process; all call it.

        ``command`` is what was typed, for the record.

        Raises:
            ValueError, OSError, BadImage: the request cannot be met; the text names the flag.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class OfRun(Protocol):
    """What is asked of every protocol that scores one run on labelled images."""

    run: Path
    """Folder of the run, as runs/NAME."""
    checkpoint: Path | None = None
    """Checkpoint to score (default: the run's last)."""
    encoder: Which | None = None
    """The one that learns, or its momentum (EMA) copy (default: the one that the paper scores)."""
    data: str | None = None
    """Labelled images to learn from, in the grammar of train.py (default: the run's)."""
    val_data: str | None = None
    """Labelled images to score (default: the run's)."""
    data_dir: Path | None = None
    """Where published data sets lie or are downloaded to (default: the run's)."""
    classes: Path | None = None
    """File of class names to keep, one a line (default: the run's; of other --data all)."""
    subset: float | None = None
    """Share or number of each class's images (default: the run's; of other --data all)."""
    loader: Literal["auto", "memory", "ffcv", "dali"] = "auto"
    """What decodes."""
    workers: int | None = None
    """Decoding threads of each process (default: its share of the cores)."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision to compute in (default: the run's)."""

    @contextmanager
    def opened(self) -> Iterator[Subject]:
        """Open the run and the images the flags name; close the decoders afterwards.

        Raises:
            ValueError: no such run, checkpoint or data, or nothing to score on.
        """
        config, state = build.load_run(self.run, self.checkpoint)
        facts = data_facts(config.data)  # other data are shown as the network learnt to see
        method = restore(config, state, facts, self.encoder)
        config = self._with_data(config)
        accelerator = start(self.precision or config.precision)
        data = build.open_data_of(config, accelerator)
        if data.val is None:
            raise ValueError("--val-data: there are no images to score, name some with labels")
        decoders = build.Decoders(config, accelerator)
        try:
            yield Subject(config, state, facts, data.train, data.val, decoders, accelerator, method)
        finally:
            decoders.close()

    def _with_data(self, config: ResolvedConfig) -> ResolvedConfig:
        """Return the run's settings with the data that the command line names instead.

        With data of its own and no ``--val-data``, what belongs to those data is scored, and the
        run's ``--classes`` and ``--subset`` do not apply to them.
        """
        names = ("data", "val_data", "data_dir", "classes", "subset", "loader", "workers")
        given = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        if self.data is not None and self.data != config.data:
            given = {"val_data": None, "classes": None, "subset": None} | given
        return dataclasses.replace(config, **given)


@dataclass(frozen=True)
class Subject:
    """A run's network as a checkpoint holds it, and the labelled images to score it on."""

    config: ResolvedConfig
    """The run's settings, with the data that are scored."""
    state: Mapping[str, Any]
    """The checkpoint."""
    facts: DataFacts
    """How the network learnt to see."""
    train: Table
    val: Table
    decoders: build.Decoders
    accelerator: Accelerator
    restored: Method
    """The run's method with the checkpoint's weights, and the encoder that is scored."""

    def method(self) -> Method:
        """Return the run's method with the checkpoint's weights, on the device."""
        return self.placed(self.restored)

    def placed(self, method: Method) -> Method:
        """Put a method on the device, laid out as the run's was."""
        if self.config.channels_last:
            method.to(memory_format=torch.channels_last)
        return method.to(self.accelerator.device)

    def features(
        self,
        method: Method,
        encode: Callable[[Tensor], Tensor],
        table: Table,
        batch_size: int,
    ) -> Tensor:
        """Encode a table's evaluation views, (rows, d), in row order; each image counts once."""
        batches = self.batches(table, batch_size)
        return extract(method, encode, batches, len(table), self.accelerator)

    def batches(self, table: Table, batch_size: int) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """Yield this process's share of a table's evaluation views, with their rows."""
        return build.evaluation_batches_of(
            self.config, table, self.facts, self.decoders, self.accelerator, batch_size
        )

    def labels(self, table: Table) -> Tensor:
        """Return a table's labels on the device, (rows,)."""
        return torch.from_numpy(table.label).to(self.accelerator.device)

    def labelled(self) -> Subject:
        """Return the subject with only the images that have labels, if they allow a score.

        Raises:
            ValueError: one set has no labels, or ``check_classes`` says why.
        """
        scores.check_labels(*(torch.from_numpy(t.label) for t in (self.train, self.val)))
        train, val = labelled_rows(self.train), labelled_rows(self.val)
        chosen = dataclasses.replace(self, train=train, val=val)
        chosen.check_classes()
        return chosen

    def check_classes(self) -> None:
        """Compare the classes of the two sets; say which ones the score says nothing about.

        Raises:
            ValueError: an image to score is of a class of which there is none to learn from.
        """
        known, scored = (np.unique(t.label[t.label >= 0]) for t in (self.train, self.val))
        unseen = [self.name_of(c) for c in scored if c not in known]
        if unseen:
            raise ValueError(
                f"--val-data {self.config.val_data or self.config.data} has images of "
                f"{_some(unseen)}, and --data {self.config.data} has none to learn from"
            )
        missing = [self.name_of(c) for c in known if c not in scored]
        if missing:
            self.tell(f"note: --val-data has no image of {_some(missing)}, so the score is without")

    def name_of(self, label: int) -> str:
        """Return a class's name, or its number where classes have no names."""
        classes = self.train.classes
        return repr(classes[label]) if label < len(classes) else f"class {label}"

    @property
    def at(self) -> str:
        """Name the checkpoint, and the encoder where there are two, for people."""
        return of_encoder(f"step {self.state['step']}", self.restored.named_encoder)

    def tell(self, text: str) -> None:
        """Print, in the first process."""
        if self.accelerator.is_main_process:
            print(text, flush=True)

    def progress(self, step: int, total: int, text: str = "") -> None:
        """Print about ten lines over ``total`` steps."""
        every = -(-total // 10)
        if step % every == 0 or step == total:
            self.tell(f"step {step:,}/{total:,}{text}")

    def append(self, run: Path, numbers: Mapping[str, Any], command: str) -> None:
        """Append a protocol's numbers to the run's eval.jsonl, with what every line says.

        Where both name something, the protocol's number stands.
        """
        append(run, {**numbers, **self.line(command), **numbers}, self.accelerator)

    def line(self, command: str) -> dict[str, Any]:
        """Return what every line of eval.jsonl says beside the protocol's numbers."""
        return {
            "step": self.state["step"],
            "seed": self.config.seed,
            "data": self.config.data,
            "val_data": self.config.val_data,
            "train_images": len(self.train),
            "val_images": len(self.val),
            "precision": self.accelerator.mixed_precision,
            "world_size": self.accelerator.num_processes,
            **({"classes": str(self.config.classes)} if self.config.classes else {}),
            **encoder_line(self.restored),
            **self._subset(),
        } | stamp(command)

    def _subset(self) -> dict[str, Any]:
        if self.config.subset is None:
            return {}
        return {"subset": self.config.subset, "subset_seed": self.config.subset_seed}


def _some(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def labelled_rows(table: Table) -> Table:
    """Return the rows that have a label; the table itself when all have one."""
    rows = np.flatnonzero(table.label >= 0)
    return table if len(rows) == len(table) else table.take(rows)


def encoder_line(method: Method) -> dict[str, Which]:
    """Return what a line of eval.jsonl says of the encoder: nothing where there is only one."""
    return {"encoder": method.named_encoder} if method.named_encoder else {}


def of_encoder(text: str, encoder: Which | None) -> str:
    """Add the encoder's name to a text for people, where there are two."""
    return f"{text}, {encoder} encoder" if encoder else text


def restore(
    config: ResolvedConfig, state: Mapping[str, Any], facts: DataFacts, encoder: Which | None = None
) -> Method:
    """Build a run's method on the host with the weights of a checkpoint.

    Whatever scores or exports a run takes ``features`` or ``scored_encoder`` of what this returns.

    Args:
        config: the run's settings.
        state: the checkpoint.
        facts: those of the images it was trained on.
        encoder: which one is scored; None: the one that the method's paper scores.

    Raises:
        ValueError: the weights do not fit, or there is no such encoder; the text says how.
    """
    method = build.create_method(config, 1, facts, state["data"]["images"])
    own, saved = method.state_dict(), state["method"]
    differing = [
        f"{name} {tuple(saved[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in saved and saved[name].shape != own[name].shape
    ]
    differing += [f"no {name}" for name in own if name not in saved]
    differing += [f"an unknown {name}" for name in saved if name not in own]
    if differing:
        width = num_features(method.backbone)
        raise ValueError(
            f"the checkpoint does not fit --backbone {config.backbone}, whose features have "
            f"{width} numbers here: it has {differing[0]} ({len(differing)} such differences). "
            "Was it made with another version of timm?"
        )
    method.load_state_dict(saved)
    if encoder == "momentum" and len(method.encoders()) < 2:
        raise ValueError(
            f"--encoder momentum: --method {config.method} keeps no momentum copy of its encoder; "
            "leave it out"
        )
    method.scored = encoder or method.scored
    return method


def append(run: Path, line: Mapping[str, Any], accelerator: Accelerator) -> None:
    """Append a line to the run's eval.jsonl, in the first process.

    Raises:
        OSError: the folder cannot be written to.
    """
    if accelerator.is_main_process:
        with (run / "eval.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def stamp(command: str) -> dict[str, Any]:
    """Return when, from which commit and by which command something was measured."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"time": now, "commit": commit(), "command": command}


def commit() -> str | None:
    """Return the checkout's git commit, with ``-dirty`` if files differ; None without git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def percent(share: float) -> str:
    """Write a share in [0, 1] as 12.3 %."""
    return f"{100 * share:.1f} %"
