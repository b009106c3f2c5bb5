"""Score the representation of a run: nearest neighbours, or a linear probe on frozen features.

python eval.py knn --run runs/NAME
python eval.py linear --run runs/NAME
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from pipelines.datasets import data_facts
from pipelines.table import BadImage, Table
from tools.run import scores, setup
from tools.run.config import Config
from tools.run.features import extract
from tools.run.launch import start
from tools.run.pictures import untrained_knn
from tools.run.record import read_metrics


@dataclass(frozen=True, kw_only=True)
class Common:
    """What both protocols need."""

    run: Path
    """Folder of the run, as runs/NAME."""
    checkpoint: Path | None = None
    """Checkpoint to score (default: the run's last)."""
    data: str | None = None
    """Labelled images to learn from, in the grammar of train.py (default: the run's)."""
    val_data: str | None = None
    """Labelled images to score (default: the run's)."""
    data_dir: Path | None = None
    """Where published data sets lie or are downloaded to (default: the run's)."""
    loader: Literal["auto", "memory", "ffcv", "dali"] = "auto"
    """What decodes."""
    workers: int | None = None
    """Decoding threads of each process (default: its share of the cores)."""


@dataclass(frozen=True, kw_only=True)
class Knn(Common):
    """Weighted nearest neighbours among training features. Wu 2018, arXiv:1805.01978."""

    k: int = 200
    """Neighbours that vote."""
    temperature: float = 0.1
    """A neighbour's vote weighs exp(cosine similarity / temperature)."""
    features: Literal["backbone", "projection"] = "backbone"
    """The backbone's pooled features, or the projection head's output."""
    batch_size: int = 256
    """Images encoded at a time by each process."""

    def check(self, train: Tensor, val: Tensor) -> None:
        """Refuse labels, given as (rows,), that allow no score."""
        scores.check_knn(train, val, self.k, self.temperature)

    def score(self, bank: Tensor, bank_labels: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return ``knn_top1`` and ``knn_top5``."""
        return scores.knn(bank, bank_labels, x, y, k=self.k, temperature=self.temperature)

    def protocol(self) -> dict[str, Any]:
        """Return the numbers that the score depends on."""
        names = ("k", "temperature", "features")
        return {"protocol": "knn"} | {name: getattr(self, name) for name in names}

    def line(self, result: dict[str, Any], untrained: float | None) -> str:
        """Put the result into one line; ``untrained`` is the same score at step 0."""
        text = f"k={self.k}, T={self.temperature}, {self.features} features"
        text = f"kNN top-1 {result['knn_top1']:.1%} ({text}, step {result['step']}"
        before = f"; untrained network {untrained:.1%}" if untrained is not None else ""
        return f"{text}{before})".replace("%", " %")


@dataclass(frozen=True, kw_only=True)
class Linear(Common):
    """A linear layer trained by SGD on the frozen backbone's features of unaugmented images."""

    epochs: int = 100
    """Passes over the training images' features."""
    lr: float = 0.3
    """First learning rate of the cosine, for the batch as it is (SwAV: 0.3; MoCo: 30)."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 0.0
    """Weight decay of SGD."""
    batch_size: int = 256
    """Rows of an SGD step; also images encoded at a time by each process."""
    seed: int = 0
    """Key of the layer's first weights and of the order of rows."""
    features: tyro.conf.Suppress[Literal["backbone"]] = "backbone"

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size) < 1 or not self.lr > 0:
            raise ValueError("--epochs, --batch-size and --lr must be above 0")

    def check(self, train: Tensor, val: Tensor) -> None:
        """Refuse labels, given as (rows,), that allow no score."""
        scores.check_labels(train, val)

    def score(self, train: Tensor, labels: Tensor, x: Tensor, y: Tensor) -> dict[str, float]:
        """Return ``linear_top1`` and ``linear_top5``."""
        return scores.linear_probe(train, labels, x, y, **self._numbers())

    def protocol(self) -> dict[str, Any]:
        """Return the numbers that the score depends on."""
        numbers = self._numbers()
        numbers["probe_seed"] = numbers.pop("seed")
        return {"protocol": "linear", "features": self.features} | numbers

    def _numbers(self) -> dict[str, Any]:
        names = ("epochs", "lr", "momentum", "weight_decay", "batch_size", "seed")
        return {name: getattr(self, name) for name in names}

    def line(self, result: dict[str, Any], untrained: float | None) -> str:
        """Put the result into one line."""
        text = f"linear top-1 {result['linear_top1']:.1%}, top-5 {result['linear_top5']:.1%}"
        return f"{text} ({self.epochs} epochs, step {result['step']})".replace("%", " %")


Arguments = (
    Annotated[Knn, tyro.conf.subcommand("knn")] | Annotated[Linear, tyro.conf.subcommand("linear")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Score a run, print one line and append one to its eval.jsonl; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args: Knn | Linear = tyro.cli(Arguments, args=argv, description=__doc__)
        evaluate(args, shlex.join(["eval.py", *argv]))
    except (ValueError, OSError, BadImage) as error:
        print(f"eval.py: {error}", file=sys.stderr)
        return 2
    return 0


def evaluate(args: Knn | Linear, command: str) -> dict[str, Any]:
    """Return the line written to eval.jsonl; it is written and printed by the first process."""
    config, state = setup.load_run(args.run, args.checkpoint)
    facts = data_facts(config.data)  # other data are shown as the network learnt to see
    config = with_data(config, args)
    accelerator = start(config.precision)
    data = setup.open_data_of(config, accelerator)
    train_labels, val_labels = labels(data.train), labels(data.val)
    args.check(train_labels, val_labels)
    assert data.val is not None, "check() refuses a missing table: it has no labels"

    method = setup.create_method(config, 1, facts, state["data"]["images"])
    method.load_state_dict(state["method"])
    method.to(accelerator.device)
    encode = method.features if args.features == "backbone" else method.project

    decoders = setup.Decoders(config, accelerator)

    def features(table: Table) -> Tensor:
        batches = setup.evaluation_batches_of(
            config, table, facts, decoders, accelerator, args.batch_size
        )
        return extract(method, encode, batches, len(table), accelerator)

    numbers = args.score(
        features(data.train),
        train_labels.to(accelerator.device),
        features(data.val),
        val_labels.to(accelerator.device),
    )
    decoders.close()
    result = (
        args.protocol()
        | numbers
        | {
            "step": state["step"],
            "seed": config.seed,
            "data": config.data,
            "val_data": config.val_data,
            "train_images": len(data.train),
            "val_images": len(data.val),
            "world_size": accelerator.num_processes,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "commit": commit(),
            "command": command,
        }
    )
    if accelerator.is_main_process:
        with (args.run / "eval.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        print(args.line(result, untrained(args)))
    return result


def with_data(config: Config, args: Common) -> Config:
    """Return the run's settings with the data that the command line names instead."""
    given = {
        name: getattr(args, name)
        for name in ("data", "val_data", "data_dir", "loader", "workers")
        if getattr(args, name) is not None
    }
    return dataclasses.replace(config, **given)


def labels(table: Table | None) -> Tensor:
    """Return a table's labels, (rows,); none without a table."""
    label: NDArray[np.int64] = np.zeros(0, np.int64) if table is None else table.label
    return torch.from_numpy(label)


def untrained(args: Knn | Linear) -> float | None:
    """Return the kNN score that train.py measured at step 0, if it was measured like this one."""
    same = isinstance(args, Knn) and args.protocol() == Knn(run=args.run).protocol()
    if not same or args.data or args.val_data:
        return None
    return untrained_knn(read_metrics(args.run / "metrics.jsonl"))


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


if __name__ == "__main__":
    sys.exit(main())
