"""The interface of eval.py's protocols, and the flags that they share. Imports no torch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from models.settings.base import Which
from pipelines.settings import DevicePaths
from tools.runs.locate import find_run

if TYPE_CHECKING:
    from tools.evaluation.evaluated_run import EvaluatedRun


LoaderName = Literal["auto", "memory", "ffcv", "dali"]
Split = Literal["train", "val"]


class Protocol:
    """A way to score a representation: a frozen dataclass, and a subcommand of ``eval.py``."""

    def evaluate(self, command: str) -> None:
        """Score; the main process appends lines to eval.jsonl and prints the result.

        All processes call it. ``command`` is the command line, which is recorded.

        Raises:
            ValueError, OSError, BadImage: the request cannot be met; the message names the flag.
        """
        raise NotImplementedError

    @property
    def scored_runs(self) -> list[Path]:
        """The folders of the runs whose eval.jsonl has new lines."""
        return []


@dataclass(frozen=True, kw_only=True)
class ImageFlags(Protocol):
    """The flags of every protocol that reads a data set."""

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
    loader: LoaderName | None = None
    """Image decoder (default: that of the run's training; auto with another --data)."""
    workers: int | None = None
    """Decoding threads of each process (default: its share of the cores)."""
    precision: Literal["no", "bf16", "fp16"] | None = None
    """Mixed precision (default: the run's)."""
    device_paths: DevicePaths | None = None
    """Our GPU code: auto: where it equals PyTorch here; plain: none; fused: or stop (default: plain
    if the run's is, else auto)."""


@dataclass(frozen=True, kw_only=True)
class RunProtocol(ImageFlags):
    """The flags of every protocol that scores one run on labelled images."""

    run: Annotated[Path, Positional, arg(metavar="RUN")]
    """Run to score: its folder, as runs/NAME, or NAME below ./runs."""
    checkpoint: Path | None = None
    """Checkpoint to score: a file, best (train.py --keep-best) or last (default)."""
    encoder: Which | None = None
    """Encoder to score: the trained one or its momentum (EMA) copy (default: the paper's)."""

    @property
    def folder(self) -> Path:
        """The run's folder.

        Raises:
            ValueError: there is no such run.
        """
        return find_run(self.run)

    @property
    def scored_runs(self) -> list[Path]:
        """The run's folder."""
        return [self.folder]

    def open_run(self) -> AbstractContextManager[EvaluatedRun]:
        """Open the run and the images that the flags name; close the decoders afterwards.

        Raises:
            ValueError: the run, the checkpoint or the data do not exist, or no image can be scored.
        """
        from tools.evaluation.opening import open_run

        return open_run(self, self.folder, self.checkpoint, self.encoder)


@dataclass(frozen=True, kw_only=True)
class FrozenProtocol(ImageFlags):
    """The flags of every protocol that uses frozen features: a run's, or a published backbone's."""

    run: Annotated[Path | None, Positional, arg(metavar="[RUN]")] = None
    """Run to score: its folder, as runs/NAME, or NAME below ./runs."""
    checkpoint: Path | None = None
    """Checkpoint to score: a file, best (train.py --keep-best) or last (default)."""
    encoder: Which | None = None
    """Encoder to score: the trained one or its momentum (EMA) copy (default: the paper's)."""
    backbone: str | None = None
    """Score these weights instead of a run's, as a baseline: timm:NAME[.TAG], hf-hub:ORG/NAME or a
    folder in the hub's form."""
    init: str | None = None
    """File of weights for --backbone, as --init of train.py; NAME is timm's of the architecture."""
    random: bool = False
    """Draw the weights of --backbone at random: the untrained network."""

    def __post_init__(self) -> None:
        if self.run is None and self.backbone is None:
            raise ValueError(
                "name a run (its folder, or its name below ./runs), or --backbone timm:NAME for "
                "published weights"
            )
        if self.backbone is None:
            if self.random or self.init is not None:
                flag = "--random" if self.random else "--init"
                raise ValueError(f"{flag} is for --backbone; a run has its own weights")
            return
        if self.random and self.init is not None:
            raise ValueError("--init and --random exclude each other: both give the weights")
        if self.run is not None:
            raise ValueError(f"--backbone {self.backbone} is scored without a run: leave out RUN")
        if self.data is None:
            raise ValueError(f"--backbone {self.backbone} has no data of its own: name --data")
        for flag, value in (("--checkpoint", self.checkpoint), ("--encoder", self.encoder)):
            if value is not None:
                raise ValueError(f"{flag} belongs to a run; --backbone has one set of weights")

    @property
    def folder(self) -> Path | None:
        """The run's folder; None for a backbone without a run.

        Raises:
            ValueError: there is no such run.
        """
        return None if self.run is None else find_run(self.run)

    def open(self, split: Split | None = None) -> AbstractContextManager[EvaluatedRun]:
        """Open the weights and the images that the flags name; close the decoders afterwards.

        With a ``split``, that one alone is opened, and takes the place of both.

        Raises:
            ValueError: the weights or the data do not exist, or no image can be scored.
        """
        from tools.evaluation.opening import open_backbone, open_run

        if self.folder is not None:
            return open_run(self, self.folder, self.checkpoint, self.encoder, split)
        assert self.backbone is not None
        return open_backbone(self, self.backbone, init=self.init, random=self.random, split=split)


@dataclass(frozen=True, kw_only=True)
class FrozenScore(FrozenProtocol):
    """A score of frozen features, and the folder that takes it."""

    output: Path | None = None
    """Folder whose eval.jsonl takes the score (default: the run's; a backbone's is printed)."""

    @property
    def takes_score(self) -> Path | None:
        """The folder whose eval.jsonl takes the score, if any."""
        return self.output or self.folder

    @property
    def scored_runs(self) -> list[Path]:
        """The run's folder, unless another folder takes the score."""
        return [self.folder] if self.folder and self.output is None else []
