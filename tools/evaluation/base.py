"""The interface of eval.py's protocols, and the flags of those that score one run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from models.settings.base import Which
from pipelines.datasets import data_facts
from tools.config.config import ResolvedConfig
from tools.distributed.launch import start
from tools.engine import build
from tools.engine.restore import restore
from tools.evaluation.evaluated_run import EvaluatedRun
from tools.runs.locate import find_run


class Protocol:
    """A way to score a representation: a frozen dataclass, and a subcommand of ``eval.py``."""

    def evaluate(self, command: str) -> None:
        """Score; the main process appends lines to eval.jsonl and prints the result.

        All processes call it. ``command`` is the command line, which is recorded.

        Raises:
            ValueError, OSError, BadImage: the request cannot be met; the message names the flag.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class RunProtocol(Protocol):
    """The flags of every protocol that scores one run on labelled images."""

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run to score: its folder, as runs/NAME, or NAME below ./runs."""
    checkpoint: Path | None = None
    """Checkpoint to score (default: the run's last)."""
    encoder: Which | None = None
    """Encoder to score: the trained one or its momentum (EMA) copy (default: the paper's)."""
    data: str | None = None
    """Labelled training images, named as --data of train.py (default: the run's)."""
    val_data: str | None = None
    """Labelled images to score (default: the run's validation images)."""
    data_dir: Path | None = None
    """Folder of the published data sets; missing ones are downloaded to it (default: the run's)."""
    classes: Path | None = None
    """File of the class names to keep, one a line (default: the run's; all with another --data)."""
    subset: float | None = None
    """Share or number of each class's images (default: the run's; all with another --data)."""
    loader: Literal["auto", "memory", "ffcv", "dali"] = "auto"
    """Image decoder."""
    workers: int | None = None
    """Decoding threads of each process (default: its share of the cores)."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision (default: the run's)."""

    @property
    def folder(self) -> Path:
        """The run's folder.

        Raises:
            ValueError: there is no such run.
        """
        return find_run(self.run)

    @contextmanager
    def open_run(self) -> Iterator[EvaluatedRun]:
        """Open the run and the images that the flags name; close the decoders afterwards.

        Raises:
            ValueError: the run, the checkpoint or the data do not exist, or no image can be scored.
        """
        config, state = build.load_run(self.folder, self.checkpoint)
        facts = data_facts(config.data)  # other data are normalized as the training images were
        method = restore(config, state, facts, self.encoder)
        config = self._with_data(config)
        accelerator = start(self.precision or config.precision)
        data = build.open_data_of(config, accelerator)
        if data.val is None:
            raise ValueError("--val-data: there are no images to score; name labelled images")
        decoders = build.Decoders(config, accelerator)
        try:
            yield EvaluatedRun(
                config, state, facts, data.train, data.val, decoders, accelerator, method
            )
        finally:
            decoders.close()

    def _with_data(self, config: ResolvedConfig) -> ResolvedConfig:
        """Return the run's settings, with its data replaced by those of the command line.

        If ``--data`` is given without ``--val-data``, that data set's own validation images are
        scored. The run's ``--classes`` and ``--subset`` do not apply to another data set.
        """
        names = ("data", "val_data", "data_dir", "classes", "subset", "loader", "workers")
        given = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        if self.data is not None and self.data != config.data:
            given = {"val_data": None, "classes": None, "subset": None} | given
        return dataclasses.replace(config, **given)
