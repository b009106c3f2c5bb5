"""``eval.py embed``: the features of images, with their names and labels, in a file."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from tyro.conf import Positional, arg

from pipelines.data_spec import split_sum
from pipelines.system.atomic import replacing
from pipelines.system.cache import cache_root
from tools.evaluation.base import FrozenProtocol, Split

if TYPE_CHECKING:
    from pipelines.sources.table import Table
    from tools.config.config import ResolvedConfig
    from tools.evaluation.evaluated_run import EvaluatedRun


@dataclass(frozen=True)
class Embeddings:
    """The features of a data set's images, in its order."""

    features: NDArray[np.float32]
    """(n, d)."""
    names: list[str]
    """Paths below the data folder, or the data set's name and the row."""
    labels: NDArray[np.int64]
    """(n,); -1 without a class."""
    classes: tuple[str, ...]
    """Names of the classes, if they have names; a label is an index."""
    settings: dict[str, Any]
    """What the features depend on."""

    def without(self, rows: NDArray[np.int64]) -> Embeddings:
        """Return the embeddings of the other images; ``rows`` are numbers from 0."""
        kept = np.delete(np.arange(len(self.names)), rows)
        names = [self.names[row] for row in kept]
        return Embeddings(
            self.features[kept], names, self.labels[kept], self.classes, self.settings
        )

    def columns(self) -> dict[str, Any]:
        """Return the columns of a table: name, label, class, f0, f1, ..."""
        head: dict[str, Any] = {"name": self.names, "label": self.labels}
        if self.classes:
            head["class"] = [self.classes[label] if label >= 0 else "" for label in self.labels]
        return head | {f"f{i}": column for i, column in enumerate(self.features.T)}


def write_npz(path: Path, found: Embeddings) -> None:
    """Write arrays: features, names, labels, classes, and the settings as JSON."""
    with path.open("wb") as file:
        np.savez(
            file,
            features=found.features,
            names=np.array(found.names, np.str_),
            labels=found.labels,
            classes=np.array(found.classes, np.str_),
            settings=np.array(json.dumps(found.settings)),
        )


def write_csv(path: Path, found: Embeddings) -> None:
    """Write a table; nine digits give back the same float32."""
    import csv

    columns = found.columns()
    width = len(columns) - found.features.shape[1]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        heads = list(columns.values())[:width]
        for *head, row in zip(*heads, found.features, strict=True):
            writer.writerow([*head, *(f"{value:.9g}" for value in row.tolist())])


def write_parquet(path: Path, found: Embeddings) -> None:
    """Write a table, with the settings as JSON in the file's metadata."""
    from pyarrow import parquet, table

    about = {"settings": json.dumps(found.settings)}
    parquet.write_table(table(found.columns()).replace_schema_metadata(about), path)


WRITERS: dict[str, Callable[[Path, Embeddings], None]] = {
    ".npz": write_npz,
    ".csv": write_csv,
    ".parquet": write_parquet,
}
"""The formats by suffix."""


@dataclass(frozen=True, kw_only=True)
class Embed(FrozenProtocol):
    """Write the features of images to a file, with the images' names and labels.

    Labels are not needed. The rows are in the data set's order, one for each image; a damaged image
    that --on-bad-image replace allows has none.
    """

    out: Annotated[Path | None, Positional, arg(metavar="OUT")] = None
    """File to write: .npz, .csv or .parquet."""
    split: Split = "train"
    """Training or validation images of the data."""
    features: Literal["backbone", "projection"] = "backbone"
    """The backbone's pooled features, or the projection head's output (unit length)."""
    batch_size: int = 256
    """Images that each process encodes at a time."""
    overwrite: bool = False
    """Replace OUT if it exists."""

    def __post_init__(self) -> None:
        if self.backbone is not None and self.out is None:  # the only path is OUT
            object.__setattr__(self, "out", self.run)
            object.__setattr__(self, "run", None)
        super().__post_init__()
        if self.batch_size < 1:
            raise ValueError("--batch-size must be at least 1")
        if self.split == "train" and self.val_data is not None:
            raise ValueError("--val-data names validation images: --split val takes them")
        if self.backbone is not None and self.features == "projection":
            raise ValueError(f"--features projection: --backbone {self.backbone} has no head")

    def evaluate(self, command: str) -> None:
        """Encode the images and write the file."""
        from tools.evaluation.evaluated_run import describe_damaged

        check_output(self.out, self.overwrite)
        with self.open(self.split) as evaluated:
            table, method = evaluated.val, evaluated.method()
            encode = method.features if self.features == "backbone" else method.project
            rows = evaluated.features(method, encode, table, self.batch_size).cpu().numpy()
            damaged = evaluated.damaged(table)
            if not evaluated.accelerator.is_main_process:
                return
            names = names_of(table, evaluated.config)
            found = Embeddings(
                rows, names, table.label, table.classes, self.settings(evaluated, command)
            ).without(damaged)
            assert self.out is not None
            with replacing(self.out) as aside:
                WRITERS[self.out.suffix.lower()](aside, found)
            for line in describe_damaged([names[row] for row in damaged], left_out=True):
                print(line)
            bad = int((~np.isfinite(found.features)).any(1).sum())
            if bad:
                print(f"note: {bad:,} images have features that are not finite")
            labelled, (count, width) = int((found.labels >= 0).sum()), found.features.shape
            print(
                f"{self.out}: {count:,} images, {labelled:,} of them with a label, "
                f"{width:,} features each ({self.features}, {evaluated.description})"
            )

    def settings(self, evaluated: EvaluatedRun, command: str) -> dict[str, Any]:
        """Return what the features depend on."""
        config, facts = evaluated.config, evaluated.facts
        resize = facts.eval_resize or facts.image_size
        record = evaluated.record(command)
        del record["train_images"], record["val_images"]
        return {
            "protocol": "embed",
            "run": str(self.folder) if self.folder else None,
            "split": self.split,
            "features": self.features,
            "image_size": config.image_size,
            "resize": round(config.image_size * resize / facts.image_size),
            "interpolation": config.interpolation,
            "mean": facts.mean,
            "std": facts.std,
        } | record


def check_output(out: Path | None, overwrite: bool) -> None:
    """Refuse a file that cannot be written, before any image is encoded.

    Raises:
        ValueError: no file is named, its suffix is unknown, a package is missing, or it exists.
    """
    if out is None:
        raise ValueError("embed writes a file: eval.py embed RUN OUT.npz (or .csv, .parquet)")
    suffix, known = out.suffix.lower(), ", ".join(WRITERS)
    if suffix not in WRITERS:
        raise ValueError(f"{out}: the suffix says the format, which is one of {known}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ValueError(
            f"{out}: Parquet needs the package pyarrow, which is not installed; .npz and .csv "
            "need none"
        )
    if out.is_dir():
        raise ValueError(f"{out} is a folder: name a file ({known})")
    if out.exists() and not overwrite:
        raise ValueError(f"{out} exists: --overwrite replaces it")


def names_of(table: Table, config: ResolvedConfig) -> list[str]:
    """Return the images' names, without the folder of the data set."""
    given = [spec for spec in (config.val_data, config.data) if spec]
    specs = [one for spec in given for one in split_sum(spec)]
    folders = [Path(spec.removeprefix("folder:")).expanduser() for spec in specs]
    folders = [place for folder in folders for place in (folder, folder.absolute().resolve())]
    places = [*folders, *(folder.parent for folder in folders[1::2])]
    places += [config.data_dir, cache_root()]
    heads = [f"{place}/" for place in places]
    names = [table.source.name(row) for row in range(len(table))]
    head = next((h for h in heads if all(name.startswith(h) for name in names)), "")
    return [name.removeprefix(head) for name in names]
