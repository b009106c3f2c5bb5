"""Write an FFCV file from a data set, or check one.

Examples:
    python tools/write_ffcv.py photos photos.beton
    python tools/write_ffcv.py ~/imagenet train.beton --keep-jpeg --shuffle 0
    python tools/write_ffcv.py 'wds:shards/train-{000..146}.tar' train.beton
    python tools/write_ffcv.py 'parquet:data/train-*.parquet' train.beton --shuffle 0
    python tools/write_ffcv.py hf:ORG/NAME train.beton --shuffle 0
    python tools/write_ffcv.py ~/imagenet train-0.beton --shuffle 0 --shard 0/4
    python tools/write_ffcv.py ~/imagenet s3://bucket/train.beton --keep-jpeg
    python tools/write_ffcv.py --verify train.beton
"""

from __future__ import annotations

if __package__ is None:  # run as a script
    from diagnostics import environment

    environment.check()

import io
import logging
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from pipelines.beton.convert import bad_rows, convert
from pipelines.beton.encode import Settings
from pipelines.beton.format import open_beton
from pipelines.beton.remote import open_remote_beton
from pipelines.beton.shard import Shard
from pipelines.beton.to_store import check_destination, uploaded
from pipelines.data_facts import DATASETS
from pipelines.data_spec import check_prefixed, meant, split_sum, suggesting
from pipelines.datasets import open_data
from pipelines.remote.url import is_remote
from pipelines.sources.classes import read_classes
from pipelines.sources.folder import LISTED
from pipelines.sources.hub import hub_parquet
from pipelines.sources.image_file import ImageRules
from pipelines.sources.parquet import find_parquet, open_parquet
from pipelines.sources.parquet_schema import Choice
from pipelines.sources.shard_members import MemberKeys
from pipelines.sources.splits import find_splits
from pipelines.sources.table import Table
from pipelines.system.units import counted, size_text
from tools.config.images import ImageConfig
from tools.runs.command import command

log = logging.getLogger("write_ffcv")

IN_COLUMNS = ("parquet:", "hf:")
"""Beginnings of SOURCE that stand for parquet files."""


@dataclass(frozen=True)
class Arguments:
    """Write SOURCE to OUT, a .beton that any FFCV reads, and its description OUT.json."""

    source: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = None
    """Data set: photos, cifar10, cifar100, stl10, tiny-imagenet, a folder, list:FILE, PATH.beton,
    wds:PATTERN of tar shards, parquet:PATTERN, or hf:ORG/NAME of the Hugging Face hub; several as
    'folder:A + B.beton'."""
    out: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")] = None
    """File to write, on a disk or in a store (s3://, gs://, az://); it appears only when it is
    complete."""
    max_size: int = 500
    """Longest side in pixels; larger images are shrunk (0: no limit)."""
    quality: int = 90
    """JPEG quality of re-encoded images, 1 to 100."""
    keep_jpeg: bool = False
    """Store a JPEG's bytes unchanged if it is upright, RGB or gray, and needs no shrinking."""
    workers: int = 0
    """Number of encoding processes (0: one for each core)."""
    on_error: Literal["stop", "skip"] = "stop"
    """If images cannot be decoded: list them and write nothing, or leave them out."""
    shuffle: int | None = None
    """Write the rows in the random order of this seed (default: in the order of SOURCE). This helps
    --order blocks of train.py, which shuffles only within blocks, because neighbouring rows of a
    folder are of one class."""
    shard: str | None = None
    """Write part I of N only, as 0/4 to 3/4: on several machines at once, each to its own OUT. All
    need the same SOURCE and flags."""
    split: Literal["train", "val"] = "train"
    """Split of a named data set, of a folder with train/ and val/, or of hf:ORG/NAME."""
    data_dir: Path = Path("data")
    """Folder of the published data sets."""
    classes: Path | None = None
    """File of class names to keep, one a line."""
    image_key: str | None = None
    """Key of the images in tar shards, as input.jpg (default: the ending of any image), or their
    column in parquet files (default: the one that holds images)."""
    label_key: str | None = None
    """Column of the classes in parquet files, numbers or names (default: label, or the one that
    the files declare to be classes); none: no labels. Of tar shards: key of the member, or field
    of the .json (default: cls, then label in .json)."""
    formats: Annotated[ImageConfig, tyro.conf.OmitArgPrefixes] = ImageConfig()
    in_chans: int = 3
    """Channels of the stored images: 3 for RGB, 1 for gray, N for images of N bands."""
    overwrite: bool = False
    """Replace OUT if it exists."""
    temporary_folder: Path | None = None
    """Folder with room for the whole file, where OUT of a store is made first (default: the
    cache)."""
    verify: Annotated[str | None, tyro.conf.arg(metavar="FILE")] = None
    """Instead of writing, decode every row of this file, which may be in a store; the exit status
    is 1 if one fails."""

    def __post_init__(self) -> None:
        if (self.verify is None) == (self.source is None or self.out is None):
            raise ValueError("give SOURCE and OUT, or --verify FILE")
        out = self.out or ".beton"
        if not out.endswith(".beton") or Path(out).is_dir():
            raise ValueError(f"OUT is a file that ends in .beton, not {self.out}")
        if self.temporary_folder is not None and not is_remote(out):
            raise ValueError("--temporary-folder is for OUT in a store: s3://BUCKET/NAME.beton")
        self.formats.check()
        self._check_source(self.source or "")

    def _check_source(self, source: str) -> None:
        """Refuse flags that SOURCE does not take."""
        has_keys = any(one.startswith(("wds:", *IN_COLUMNS)) for one in split_sum(source))
        for flag, key in (("--image-key", self.image_key), ("--label-key", self.label_key)):
            if key is not None and not has_keys:
                raise ValueError(f"{flag} is for SOURCE wds:PATTERN or parquet:PATTERN")
        if self.shard is not None:
            Shard.parse(self.shard)
        if self.shuffle is not None and self.shuffle < 0:
            raise ValueError(f"--shuffle {self.shuffle} is negative")

    @property
    def rules(self) -> ImageRules:
        """What the image files become.

        Raises:
            ValueError: a flag is out of range; the text names it.
        """
        formats = self.formats
        return ImageRules(
            formats.background,
            formats.depth_range,
            formats.pages,
            self.in_chans,
            formats.max_pixels,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Write or verify a .beton; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may not be valid text
        sys.stdout.reconfigure(errors="backslashreplace")
    return command(
        "tools/write_ffcv.py", lambda: run(tyro.cli(Arguments, args=argv, description=__doc__))
    )


def run(arguments: Arguments) -> int:
    """Write or verify a file; return 1 if rows of a verified file do not decode."""
    if arguments.verify is not None:
        return _verify(arguments.verify, arguments.workers)
    return _write(arguments)


def _write(arguments: Arguments) -> int:
    out, is_sent = arguments.out or "", is_remote(arguments.out or "")
    if is_sent:
        check_destination(out, arguments.overwrite)
    elif Path(out).exists() and not arguments.overwrite:
        raise ValueError(f"{out} exists: --overwrite replaces it, or choose another OUT")
    elif (guess := meant(out)) and not Path(out).parent.is_dir():  # a folder named s3: ?
        raise ValueError(f"OUT {out}: did you mean {guess}?")
    settings = Settings(
        arguments.max_size, arguments.quality, arguments.keep_jpeg, arguments.workers
    )
    table, source = _open_source(arguments)
    if arguments.shuffle is not None:
        table = table.take(np.random.default_rng(arguments.shuffle).permutation(len(table)))
    entry = None
    if arguments.shard is not None:
        part = Shard.parse(arguments.shard)
        entry = part.manifest(table, settings)
        table = part.take(table)
    place = uploaded(out, arguments.temporary_folder) if is_sent else nullcontext(Path(out))
    with place as path:
        manifest = convert(table, path, settings, arguments.on_error, source, entry)
    print(_summary(out, manifest))
    return 0


def _open_source(arguments: Arguments) -> tuple[Table, str]:
    """Open the source, including unreadable rows, which the writer reports; return its name too."""
    spec = arguments.source or ""
    if len(split_sum(spec)) > 1:
        return _open_data(spec, arguments), spec
    if spec.startswith(IN_COLUMNS) and not is_remote(spec):
        return _open_parquet(spec, arguments)
    if spec not in DATASETS and Path(spec).expanduser().is_dir():
        spec = f"folder:{spec}"
    if spec.startswith("folder:"):
        _name_other_split(Path(spec.removeprefix("folder:")).expanduser(), arguments.split)
    return _open_data(spec, arguments), arguments.source or ""


def _open_data(spec: str, arguments: Arguments) -> Table:
    return open_data(
        spec,
        arguments.data_dir,
        arguments.split,
        on_bad="keep",
        classes_file=arguments.classes,
        rules=arguments.rules,
        keys=MemberKeys(arguments.image_key, arguments.label_key),
    )


def _open_parquet(spec: str, arguments: Arguments) -> tuple[Table, str]:
    file = arguments.classes
    classes = None if file is None else tuple(read_classes(file))
    with suggesting(spec):
        if spec.startswith("hf:"):
            found = hub_parquet(spec, arguments.split)
            paths, spec, features = found.paths, found.spec, found.features
        else:
            check_prefixed("parquet:", spec)
            paths, features = find_parquet(spec.removeprefix("parquet:")), {}
    choice = Choice(arguments.image_key, arguments.label_key, classes, features)
    return open_parquet(paths, spec, choice, arguments.rules), spec


def _name_other_split(path: Path, split: str) -> None:
    """Write a line for the split of a divided folder that this file does not hold."""
    splits = find_splits(path)
    if splits is not None and splits.val is not None:
        here, other = splits.train.name, splits.val.name
        wanted = "val" if split == "train" else "train"
        here, other = (here, other) if split == "train" else (other, here)
        log.info("%s: this is %s/; --split %s writes %s/", path, here, wanted, other)


def _summary(out: str, manifest: dict[str, Any]) -> str:
    lines = [
        f"{out}: {counted(manifest['rows'], 'row')}, {size_text(manifest['bytes'])}: "
        f"{manifest['jpg']} JPEG ({manifest['kept']} unchanged), {manifest['raw']} raw; "
        f"{counted(len(manifest['classes']), 'class')}; described in {out}.json"
    ]
    skipped = manifest["skipped"]
    lines += [f"  left out {bad['name']}: {bad['reason']}" for bad in skipped[:LISTED]]
    if len(skipped) > LISTED:
        lines.append(f"  ... and {len(skipped) - LISTED} more, each logged above")
    return "\n".join(lines)


def _verify(file: str, workers: int) -> int:
    with suggesting(file):
        if not is_remote(file) and not Path(file).is_file():
            raise ValueError(f"--verify {file}: there is no such file")
    table = open_remote_beton(file) if is_remote(file) else open_beton(Path(file))
    bad = bad_rows(table, workers)
    for number, why in bad:
        print(f"row {number}: {why}")
    print(f"{file}: {len(table) - len(bad)} of {len(table)} rows decode")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
