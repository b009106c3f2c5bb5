"""Parquet files of images, read in sequence: row groups, labels, and the bytes of each image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.beton.format import MAX_LABEL
from pipelines.sources.parquet_schema import NONE, Choice, Columns, find_columns, is_text, pyarrow
from pipelines.system.progress import tracked

READ_ROWS = 32
"""Rows that are read at a time."""
BUFFER = 1 << 20
"""Bytes of a file that are read at a time."""
NO_IMAGE = "holds no image (null)"
PATH_ALONE = "holds only the path of its image, and not its bytes"
"""Why a row is none, like a damaged image."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows and row groups of files, laid end to end."""

    paths: tuple[Path, ...]
    first: NDArray[np.int64]
    """First row of each file, and the number of rows, (files + 1,)."""
    group_first: NDArray[np.int64]
    """First row of each row group, and the number of rows, (groups + 1,)."""
    group_file: NDArray[np.int64]
    """The file of each row group, (groups,)."""

    def name(self, row: int) -> str:
        """Return the file of a row and the row's number in it, counted from 0."""
        file = int(np.searchsorted(self.first, row, "right")) - 1
        return f"{self.paths[file]} row {row - int(self.first[file])}"

    def group_in_file(self, group: int) -> int:
        """Return the number of a row group in its file."""
        return group - int(np.searchsorted(self.group_file, self.group_file[group]))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file; errors of reading name it.

    Raises:
        ValueError: it is no parquet file, or damaged.
    """
    arrow = pyarrow()
    # Arrow's own pool keeps the memory that it frees: 422 MB instead of 322 for pages of 97 MB.
    arrow.set_memory_pool(arrow.system_memory_pool())
    try:
        with arrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER) as file:
            yield file
    except (arrow.ArrowException, OSError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} is no parquet file, or it is damaged: {why}") from error


def read_layout(paths: Sequence[Path], choice: Choice) -> tuple[Layout, Columns]:
    """Read the files' footers; return their row groups and columns.

    Raises:
        ValueError: a file is no parquet file, the columns are not there or not clear, or files have
            other columns or classes than the first.
    """
    columns: Columns | None = None
    sizes: list[list[int]] = []
    for path in tracked(paths, len(paths), "opening parquet files"):
        with _opened(path) as file:
            here = find_columns(str(path), file.schema_arrow, choice)
            groups = range(file.metadata.num_row_groups)
            sizes.append([file.metadata.row_group(group).num_rows for group in groups])
        columns = here if columns is None else columns
        if here != columns:
            raise ValueError(f"{path} and {paths[0]} differ: {_difference(here, columns)}")
    assert columns is not None
    group_sizes = np.array([size for file in sizes for size in file], np.int64)
    group_file = np.repeat(np.arange(len(paths)), [len(file) for file in sizes])
    file_sizes = np.array([sum(file) for file in sizes], np.int64)
    layout = Layout(tuple(paths), _starts(file_sizes), _starts(group_sizes), group_file)
    return layout, columns


def _starts(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])


def _difference(here: Columns, first: Columns) -> str:
    if (here.image, here.label) == (first.image, first.label):
        return f"their {len(here.classes)} and {len(first.classes)} classes have other names"
    return (
        f"images in {here.image} and {first.image}, labels in {here.label} and {first.label}: "
        "--image-key and --label-key choose"
    )


def read_labels(layout: Layout, columns: Columns) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return the label of each row, (N,), -1 for null, and the names of the classes.

    Strings are numbered in the order of their sorted names.

    Raises:
        ValueError: a number is no class number, or beyond the classes' names.
    """
    if columns.label is None:
        return np.full(int(layout.first[-1]), -1, np.int64), ()
    number: dict[str, int] = {}
    parts: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
    has_text = False
    for path in tracked(layout.paths, len(layout.paths), "reading labels"):
        with _opened(path) as file:
            has_text = is_text(file.schema_arrow.field(columns.label).type)
            for batch in file.iter_batches(columns=[columns.label], use_threads=False):
                values = batch.column(0)
                parts.append(_coded(values, number) if has_text else _numbers(values))
    label = np.concatenate(parts)
    if not has_text:
        _check(layout, label, columns)
        return label, columns.classes
    names = sorted(number)
    place = np.full(len(names) + 1, -1, np.int64)  # the last one: label -1
    place[[number[name] for name in names]] = np.arange(len(names))
    return place[label], tuple(names)


def _coded(values: Any, number: dict[str, int]) -> NDArray[np.int64]:
    """Number strings in the order of their first appearance; -1 for null."""
    coded = values.cast(pyarrow().large_string()).dictionary_encode()
    known = [number.setdefault(name, len(number)) for name in coded.dictionary.to_pylist()]
    indices = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    labels: NDArray[np.int64] = np.array([*known, -1], np.int64)[indices]
    return labels


def _numbers(values: Any) -> NDArray[np.int64]:
    whole = values.cast(pyarrow().int64(), safe=False).fill_null(-1).to_numpy(zero_copy_only=False)
    return np.asarray(whole, np.int64)


def _check(layout: Layout, label: NDArray[np.int64], columns: Columns) -> None:
    most = len(columns.classes) - 1 if columns.classes else MAX_LABEL
    wrong = (label < -1) | (label > most)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"{layout.name(row)}: {columns.label} {label[row]} is no class number of 0 to {most}: "
            f"--label-key names another column, or --label-key {NONE}"
        )


def read_cells(
    layout: Layout, columns: Columns, rows: NDArray[np.int64]
) -> Iterator[tuple[int, bytes | str]]:
    """Yield rows in ascending order, each with the bytes of its image, or why there are none.

    Row groups without any of the rows are not read.

    Raises:
        ValueError: a file is damaged.
    """
    begins = np.searchsorted(rows, layout.group_first)
    groups = np.flatnonzero(np.diff(begins))
    for file in np.unique(layout.group_file[groups]).tolist():
        with _opened(layout.paths[file]) as opened:
            for group in groups[layout.group_file[groups] == file].tolist():
                wanted = rows[begins[group] : begins[group + 1]]
                yield from _read_group(opened, layout, columns, group, wanted)


def _read_group(
    file: Any, layout: Layout, columns: Columns, group: int, wanted: NDArray[np.int64]
) -> Iterator[tuple[int, bytes | str]]:
    begin = int(layout.group_first[group])
    batches = file.iter_batches(
        READ_ROWS, [layout.group_in_file(group)], [columns.image], use_threads=False
    )
    for batch in batches:
        end = begin + len(batch)
        here = wanted[np.searchsorted(wanted, begin) : np.searchsorted(wanted, end)]
        for row in here.tolist():
            yield row, _bytes(batch.column(0)[row - begin].as_py())
        begin = end
        if begin > wanted[-1]:
            return


def _bytes(cell: Any) -> bytes | str:
    if not isinstance(cell, dict):
        return NO_IMAGE if cell is None else bytes(cell)
    if cell["bytes"] is not None:
        return bytes(cell["bytes"])
    path = cell.get("path")
    return f"{PATH_ALONE}, {path!r}" if path else NO_IMAGE
